//! The text of kernels, as part of the program: changed ones make results stale.

/// A file of kernels. Compiled behind the prelude, once for each type of number.
#[derive(Debug)]
pub struct Source {
    pub name: &'static str,
    pub text: &'static str,
}

const PRELUDE: &str = include_str!("../../kernels/prelude.cu");

impl Source {
    /// The whole program for one type of number.
    pub fn program(&self, real: &str) -> String {
        let Self { name, text } = self;
        format!("#define REAL {real}\n{PRELUDE}\n#line 1 \"{name}.cu\"\n{text}")
    }

    /// The kernels in it.
    #[cfg(test)]
    pub fn kernels(&self) -> Vec<&'static str> {
        let starts = self.text.split("\nKERNEL ").skip(1);
        starts.filter_map(|rest| rest.split('(').next()).collect()
    }
}
