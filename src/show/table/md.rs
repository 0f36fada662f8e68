//! Markdown, aligned so that it reads well in a terminal too.

use super::layout::{Head, Layout, Text, code_spans};

pub fn render(layout: &Layout) -> String {
    let mut out = match &layout.number {
        Some(number) => format!("**{number}.** {}\n\n", escape(&layout.title)),
        None => format!("**{}**\n\n", escape(&layout.title)),
    };
    let lines: Vec<Vec<String>> = layout
        .lines
        .iter()
        .map(|line| line.cells.iter().map(cell).collect())
        .collect();
    let heads: Vec<String> = layout.heads.iter().map(|h| escape(&h.text)).collect();
    let width = |i: usize| {
        let cells = lines.iter().map(|line| line[i].chars().count());
        cells
            .chain([heads[i].chars().count(), 3])
            .max()
            .unwrap_or(3)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    out += &row(&heads, &layout.heads, &widths);
    for (head, width) in layout.heads.iter().zip(&widths) {
        out += "| ";
        out += &"-".repeat(width - 1);
        out += if head.numeric { ": " } else { "- " };
    }
    out += "|\n";
    for line in &lines {
        out += &row(line, &layout.heads, &widths);
    }
    let mut below: Vec<String> = Vec::new();
    for (i, note) in layout.notes.iter().enumerate() {
        below.push(format!("{} {}", superscript(i + 1), escape(note)));
    }
    below.extend(layout.remarks.iter().map(|r| escape(r)));
    if !below.is_empty() {
        // Two spaces break the line in Markdown and do not show in a terminal.
        out += &format!("\n{}\n", below.join("  \n"));
    }
    out
}

fn row(cells: &[String], heads: &[Head], widths: &[usize]) -> String {
    let mut out = String::new();
    for ((cell, head), width) in cells.iter().zip(heads).zip(widths) {
        let pad = " ".repeat(width - cell.chars().count());
        out += &if head.numeric {
            format!("| {pad}{cell} ")
        } else {
            format!("| {cell}{pad} ")
        };
    }
    out + "|\n"
}

fn cell(text: &Text) -> String {
    let body = escape(&text.body);
    let body = match (text.strong, text.word) {
        (true, _) => format!("**{body}**"),
        (_, true) => format!("*{body}*"),
        _ => body,
    };
    let marks: Vec<String> = text.notes.iter().map(|n| superscript(*n)).collect();
    body + &marks.join("˒")
}

/// Numbers of notes, such as `²`.
pub fn superscript(n: usize) -> String {
    n.to_string()
        .chars()
        .map(|c| {
            "⁰¹²³⁴⁵⁶⁷⁸⁹"
                .chars()
                .nth(c as usize - '0' as usize)
                .unwrap_or(c)
        })
        .collect()
}

/// Characters that Markdown would take for its own, outside of code.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for (code, part) in code_spans(text) {
        if code {
            // A bar ends the cell of a table in code, too.
            out += &format!("`{}`", part.replace('|', "\\|"));
            continue;
        }
        for c in part.chars() {
            if matches!(c, '|' | '*' | '_' | '<' | '[' | '\\') {
                out.push('\\');
            }
            out.push(c);
        }
    }
    out
}
