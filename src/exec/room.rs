//! Who may run beside whom: jobs, CPU threads, memory, and one stage on each GPU.

use std::collections::HashMap;

use super::gauge::Memory;
use crate::graph::{Id, Kind, Stage};

pub struct Room {
    jobs: usize,
    cpus: usize,
    memory: u64,
    gpus: Vec<String>,
    taken: HashMap<Id, Seat>,
}

/// What one running stage occupies.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seat {
    /// Upper bound on the threads it may use. Results never depend on it.
    pub threads: usize,
    pub gpu: Option<String>,
    cpu: usize,
    memory: u64,
    /// Nothing else may run beside it: its result is a property of the machine.
    alone: bool,
}

impl Room {
    pub fn new(jobs: usize, gpus: &[String]) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            jobs,
            cpus,
            memory: memory(),
            gpus: gpus.to_vec(),
            taken: HashMap::new(),
        }
    }

    pub fn full(&self) -> bool {
        self.taken.len() >= self.jobs || self.taken.values().any(|s| s.alone)
    }

    /// A seat for a stage, if there is room now. What asks for more than the machine has runs
    /// alone. `waiting` stages are ready, this one among them.
    pub fn admit(&self, stage: &Stage, gpu_run: bool, waiting: usize) -> Option<Seat> {
        let library = match &stage.kind {
            Kind::Library(def) => Some(def),
            Kind::Command(_) => None,
        };
        let empty = self.taken.is_empty();
        let alone = library.is_some_and(|def| def.measures_machine);
        if self.full() || alone && !empty {
            return None;
        }
        let wants_gpu = match stage.resources.gpu {
            Some(n) => n > 0,
            None => library.is_some(),
        };
        let mut gpu = None;
        if gpu_run && wants_gpu {
            let busy = |id: &&String| self.taken.values().any(|s| s.gpu.as_ref() == Some(*id));
            gpu = Some(self.gpus.iter().find(|id| !busy(id))?.clone());
        }
        let (cpu, memory) = (stage.resources.cpu, stage.resources.memory);
        let cpu_used: usize = self.taken.values().map(|s| s.cpu.max(1)).sum();
        let memory_used: u64 = self.taken.values().map(|s| s.memory).sum();
        let fits = cpu_used + cpu <= self.cpus && memory_used + memory <= self.memory;
        let asks = cpu > 0 || memory > 0;
        if asks && !fits && !empty {
            return None;
        }
        let together = (self.taken.len() + waiting).min(self.jobs).max(1);
        let threads = if alone {
            self.cpus
        } else {
            (self.cpus / together).max(cpu).max(1)
        };
        Some(Seat {
            threads,
            gpu,
            cpu,
            memory,
            alone,
        })
    }

    pub fn take(&mut self, id: Id, seat: Seat) {
        self.taken.insert(id, seat);
    }

    /// Who runs on which of these GPUs.
    pub fn on<'a>(&self, gpus: &'a [Memory]) -> Vec<(Id, &'a Memory)> {
        let of = |seat: &Seat| {
            let gpu = seat.gpu.as_deref()?;
            gpus.iter().find(|memory| memory.is_of(gpu))
        };
        let taken = self.taken.iter();
        taken
            .filter_map(|(id, seat)| Some((*id, of(seat)?)))
            .collect()
    }

    pub fn leave(&mut self, id: Id) {
        self.taken.remove(&id);
    }
}

/// Bytes of main memory.
fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = kib.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map_or(u64::MAX, |k| k * 1024)
}
