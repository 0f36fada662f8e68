//! How full the GPUs are while stages run on them, for whoever watches. The driver's own program is
//! asked: it needs no library, and counts a Python program's memory as well as ours.

use std::process::Command;
use std::sync::mpsc::Sender;
use std::time::Duration;

use super::Message;

const EVERY: Duration = Duration::from_secs(5);

/// Memory of one GPU, in bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Memory {
    /// Number of the device, as in CUDA_VISIBLE_DEVICES.
    index: String,
    /// Its other name there, such as `GPU-5a7b1c2d-...`.
    uuid: String,
    pub used: u64,
    pub total: u64,
}

impl Memory {
    pub fn is_of(&self, gpu: &str) -> bool {
        gpu == self.index || !gpu.is_empty() && self.uuid.starts_with(gpu)
    }
}

/// Asks again and again, until nobody listens or there is nobody to ask.
pub(super) fn watch(sender: Sender<Message>) {
    let asking = move || {
        while let Some(memory) = ask() {
            if sender.send(Message::Memory(memory)).is_err() {
                return;
            }
            std::thread::sleep(EVERY);
        }
    };
    // Without the thread nothing is shown, and nothing is lost.
    let _ = std::thread::Builder::new()
        .name("gauge".into())
        .spawn(asking);
}

fn ask() -> Option<Vec<Memory>> {
    let output = Command::new("nvidia-smi")
        .arg("--query-gpu=index,uuid,memory.used,memory.total")
        .arg("--format=csv,noheader,nounits")
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| parse(&String::from_utf8_lossy(&output.stdout)))
}

/// Lines such as `0, GPU-5a7b1c2d, 1234, 81559`, in MiB. A driver may not know (`[N/A]`).
fn parse(text: &str) -> Vec<Memory> {
    let one = |line: &str| {
        let mut fields = line.split(',').map(str::trim);
        let (index, uuid) = (fields.next()?.to_owned(), fields.next()?.to_owned());
        let mut bytes = || fields.next()?.parse::<u64>().ok().map(|mib| mib << 20);
        let (used, total) = (bytes()?, bytes()?);
        Some(Memory {
            index,
            uuid,
            used,
            total,
        })
    };
    text.lines().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gpu_has_a_line_and_two_names() {
        let text = "0, GPU-5a7b1c2d-11, 1234, 81559\n1, GPU-77, [N/A], [N/A]\n";
        let [memory] = parse(text).try_into().expect("one that is known");
        assert_eq!((memory.used, memory.total), (1234 << 20, 81559 << 20));
        assert!(memory.is_of("0") && memory.is_of("GPU-5a7b1c2d"));
        assert!(!memory.is_of("1") && !memory.is_of("") && !memory.is_of("GPU-77"));
    }
}
