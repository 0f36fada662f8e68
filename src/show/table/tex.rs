//! LaTeX with booktabs. A file compiles as it is, and can be `\input` into a paper unchanged.

use super::layout::{Head, Layout, Text, code_spans};

/// `\documentclass` means something else once a document has one: inside a paper the preamble is
/// skipped, and so is the end.
const PREAMBLE: &str = r"% Compiles as it is; or \usepackage{booktabs} in your paper and \input this file.
\expandafter\ifx\csname @twoclasseserror\endcsname\documentclass\else
\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage[margin=2cm]{geometry}
\usepackage{booktabs}
\begin{document}
\def\reproend{\end{document}}
\fi
";
const END: &str = "\\ifdefined\\reproend\\expandafter\\reproend\\fi\n";

/// Several tables as one file.
pub fn render(layouts: &[Layout]) -> String {
    let tables: Vec<String> = layouts.iter().map(table).collect();
    format!("{PREAMBLE}\n{}\n{END}", tables.join("\n"))
}

fn table(layout: &Layout) -> String {
    let align: String = layout
        .heads
        .iter()
        .map(|h| if h.numeric { 'r' } else { 'l' })
        .collect();
    let heads: Vec<String> = layout.heads.iter().map(head).collect();
    let mut out = format!(
        "\\begin{{table}}[htbp]\n\\centering\n\\caption{{{}}}\n\\begin{{tabular}}{{@{{}}{align}@{{}}}}\n\
         \\toprule\n{} \\\\\n\\midrule\n",
        escape(&layout.title),
        heads.join(" & "),
    );
    for line in &layout.lines {
        if line.opens_group {
            out += "\\addlinespace\n";
        }
        let cells: Vec<String> = line.cells.iter().map(cell).collect();
        out += &format!("{} \\\\\n", cells.join(" & "));
    }
    out += "\\bottomrule\n\\end{tabular}\n";
    let notes = layout.notes.iter().enumerate();
    let notes = notes.map(|(i, n)| format!("\\textsuperscript{{{}}}{}", i + 1, escape(n)));
    let below: Vec<String> = notes
        .chain(layout.remarks.iter().map(|r| escape(r)))
        .collect();
    if !below.is_empty() {
        out += &format!(
            "\n\\medskip\n\\begin{{minipage}}{{\\linewidth}}\\footnotesize\\raggedright\n{}\n\\end{{minipage}}\n",
            below.join("\\\\\n")
        );
    }
    out + "\\end{table}\n"
}

/// A long head breaks before its parenthesis.
fn head(head: &Head) -> String {
    let align = if head.numeric { 'r' } else { 'l' };
    match head.text.split_once(" (") {
        Some((first, second)) => format!(
            "\\begin{{tabular}}[b]{{@{{}}{align}@{{}}}}{}\\\\({}\\end{{tabular}}",
            escape(first),
            escape(second)
        ),
        None => escape(&head.text),
    }
}

fn cell(text: &Text) -> String {
    let body = escape(&text.body);
    let body = match (text.strong, text.word) {
        (true, _) => format!("\\textbf{{\\boldmath {body}}}"),
        (_, true) => format!("\\textit{{{body}}}"),
        _ => body,
    };
    let marks: Vec<String> = text.notes.iter().map(usize::to_string).collect();
    if marks.is_empty() {
        body
    } else {
        format!("{body}\\textsuperscript{{{}}}", marks.join(","))
    }
}

fn escape(text: &str) -> String {
    let mut out = String::new();
    for (code, part) in code_spans(text) {
        let escaped: String = part.chars().map(letter).collect();
        out += &if code {
            format!("\\texttt{{{}}}", escaped.replace("--", "-{}-"))
        } else {
            escaped
        };
    }
    out
}

fn letter(c: char) -> String {
    match c {
        '\\' => r"\textbackslash{}".into(),
        '&' | '%' | '$' | '#' | '_' | '{' | '}' => format!("\\{c}"),
        // After the end of a row these would belong to it.
        '[' | '*' => format!("{{{c}}}"),
        '~' => r"\textasciitilde{}".into(),
        '^' => r"\textasciicircum{}".into(),
        '<' | '>' | '|' => format!(
            "${}$",
            if c == '|' {
                "\\vert"
            } else if c == '<' {
                "<"
            } else {
                ">"
            }
        ),
        '≤' => r"$\leq$".into(),
        '≥' => r"$\geq$".into(),
        '±' => r"$\pm$".into(),
        '−' => "$-$".into(),
        '×' => r"$\times$".into(),
        '→' => r"$\to$".into(),
        '…' => r"\dots{}".into(),
        '–' => "--".into(),
        '—' => "---".into(),
        '’' => "'".into(),
        '“' => "``".into(),
        '”' => "''".into(),
        // T1 has the letters of Latin-1 and Latin Extended-A; anything else would stop LaTeX.
        c if c as u32 > 0x17f => format!("[U+{:04X}]", c as u32),
        c => c.into(),
    }
}
