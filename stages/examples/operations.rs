//! Times of single operations on the CPU, a line of JSON each. `benches/operations.py` compares
//! with PyTorch; see docs/performance.md.
//!
//!     cargo run --release -p stages --example operations

fn main() -> anyhow::Result<()> {
    for operation in stages::tools::operations::ALL {
        for time in operation.time()? {
            println!("{}", serde_json::to_string(&time)?);
        }
    }
    Ok(())
}
