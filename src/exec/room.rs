//! Who may run beside whom: jobs, CPU threads, memory, and one stage on each GPU.

use std::collections::HashMap;

use super::gpu_memory::Memory;
use crate::base::device::Device;
use crate::pipeline::graph::{Id, Kind, Stage};
use crate::store::Taken;

pub struct Room {
    jobs: usize,
    cpus: usize,
    memory: u64,
    gpus: Vec<String>,
    /// Whether stages of the library compute on GPUs.
    library_on_gpu: bool,
    taken: HashMap<Id, Seat>,
}

/// What one running stage occupies.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seat {
    /// Upper bound on the threads it may use. Results of the library never depend on it; a program
    /// may sum in another order with another number.
    pub threads: usize,
    /// Ids of its GPUs.
    pub gpus: Vec<String>,
    cpu: usize,
    memory: u64,
    /// Nothing else may run beside it: its result is a property of the machine.
    alone: bool,
}

impl Seat {
    /// What other runs are told of it.
    pub fn taken(&self) -> Taken {
        Taken {
            cpu: self.cpu,
            memory: self.memory,
            gpus: self.gpus.clone(),
            alone: self.alone,
        }
    }
}

impl Room {
    pub fn new(jobs: usize, device: &Device) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            jobs: jobs.min(jobs_by_descriptors()),
            cpus,
            memory: memory(),
            gpus: device.gpus.clone(),
            library_on_gpu: device.library,
            taken: HashMap::new(),
        }
    }

    pub fn full(&self) -> bool {
        self.taken.len() >= self.jobs || self.taken.values().any(|s| s.alone)
    }

    /// A seat for a stage, if there is room now. What asks for more than the machine has runs
    /// alone. `waiting` stages are ready, this one among them; `beside` it so many stand in the
    /// pipeline. What `others` occupy, stages of other runs, is not there to be had.
    pub fn admit(
        &self,
        stage: &Stage,
        waiting: usize,
        beside: usize,
        others: &[Taken],
    ) -> Option<Seat> {
        let library = match &stage.kind {
            Kind::Library(def) => Some(def),
            Kind::Command(_) => None,
        };
        let empty = self.taken.is_empty() && others.is_empty();
        let alone = library.is_some_and(|def| def.measures_machine);
        if self.full() || others.iter().any(|t| t.alone) || alone && !empty {
            return None;
        }
        let wanted = match (library, self.gpus.is_empty()) {
            (_, true) => 0,
            (None, _) => stage.resources.gpus(),
            (Some(_), _) if self.library_on_gpu => stage.resources.gpu.unwrap_or(1).min(1),
            (Some(_), _) => 0,
        };
        let busy = |id: &String| {
            let ours = self.taken.values().any(|s| s.gpus.contains(id));
            ours || others.iter().any(|t| t.gpus.contains(id))
        };
        let free = self.gpus.iter().filter(|id| !busy(id)).cloned();
        let gpus: Vec<String> = free.take(wanted).collect();
        if gpus.len() < wanted {
            return None;
        }
        let (cpu, memory) = (stage.resources.cpu, stage.resources.memory);
        let ours = self.taken.values().map(|s| (s.cpu, s.memory));
        let used = ours.chain(others.iter().map(|t| (t.cpu, t.memory)));
        let (cpu_used, memory_used) = used.fold((0, 0_u64), |(cpus, bytes), (cpu, memory)| {
            (cpus + cpu.max(1), bytes.saturating_add(memory))
        });
        let fits = cpu_used + cpu <= self.cpus && memory_used.saturating_add(memory) <= self.memory;
        let asks = cpu > 0 || memory > 0;
        if asks && !fits && !empty {
            return None;
        }
        let together = (self.taken.len() + waiting).min(self.jobs).max(1);
        let threads = match library {
            Some(_) if alone => self.cpus,
            Some(_) => (self.cpus / together).max(cpu).max(1),
            // Never what happens to be ready: the same pipeline gives the same number.
            None if cpu > 0 => cpu,
            None => (self.cpus / beside.max(1)).max(1),
        };
        Some(Seat {
            threads,
            gpus,
            cpu,
            memory,
            alone,
        })
    }

    pub fn take(&mut self, id: Id, seat: Seat) {
        self.taken.insert(id, seat);
    }

    /// Bytes used and there, over the GPUs of each stage that runs on some of these.
    pub fn on(&self, gpus: &[Memory]) -> Vec<(Id, u64, u64)> {
        let mut all = Vec::new();
        for (id, seat) in &self.taken {
            let own = gpus.iter().filter(|m| seat.gpus.iter().any(|g| m.is_of(g)));
            let (used, total) = own.fold((0, 0), |sum, m| (sum.0 + m.used, sum.1 + m.total));
            if total > 0 {
                all.push((*id, used, total));
            }
        }
        all
    }

    pub fn leave(&mut self, id: Id) {
        self.taken.remove(&id);
    }
}

/// Files that the runner has open besides those of its stages, and those of a stage that ends.
const OWN_FILES: u64 = 24;
const STAGE_FILES: u64 = 4;

/// How many stages can run at once with as many files as may be open (`ulimit -n`).
fn jobs_by_descriptors() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let files = limit.current.unwrap_or(u64::MAX).saturating_sub(OWN_FILES);
    usize::try_from(files / STAGE_FILES)
        .unwrap_or(usize::MAX)
        .max(1)
}

/// Bytes of main memory.
fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = kib.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map_or(u64::MAX, |k| k * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::diag::Source;
    use crate::pipeline::graph::Graph;
    use crate::pipeline::spec::{Overrides, Spec};

    fn graph(resources: &str) -> Graph {
        let text = format!(
            "[stage.a]\nkind = 'command'\nfor.i = [0, 1, 2]\nshell = 'true'\nout.x = 'x'\nresources = {resources}\n"
        );
        let spec = Spec::parse(Source::new("p", text), &Overrides::default()).expect("a pipeline");
        Graph::new(&spec, &[]).expect("a graph")
    }

    fn room(gpus: &[&str]) -> Room {
        let device = Device {
            gpus: gpus.iter().map(|id| (*id).to_owned()).collect(),
            library: false,
            name: "cpu".into(),
        };
        Room::new(8, &device)
    }

    #[test]
    fn each_command_that_asks_has_a_gpu_of_its_own() {
        let (graph, mut room) = (graph("{ gpu = 1 }"), room(&["0", "3"]));
        for (id, gpu) in ["0", "3"].into_iter().enumerate() {
            let seat = room
                .admit(&graph.stages[id], 3, 3, &[])
                .expect("a free one");
            assert_eq!(seat.gpus, [gpu]);
            room.take(id, seat);
        }
        assert_eq!(room.admit(&graph.stages[2], 1, 3, &[]), None);
        room.leave(0);
        let seat = room.admit(&graph.stages[2], 1, 3, &[]).expect("free again");
        assert_eq!(seat.gpus, ["0"]);
    }

    #[test]
    fn two_gpus_are_had_together_or_not_at_all() {
        let (two, mut room) = (graph("{ gpu = 2 }"), room(&["0", "1"]));
        let seat = room
            .admit(&two.stages[0], 1, 3, &[])
            .expect("both are free");
        assert_eq!(seat.gpus, ["0", "1"]);
        let one = room.admit(&graph("{ gpu = 1 }").stages[0], 1, 3, &[]);
        room.take(0, one.expect("both are free still"));
        assert_eq!(room.admit(&two.stages[1], 1, 3, &[]), None);
    }

    #[test]
    fn what_other_runs_occupy_is_not_given_away() {
        let (one, room) = (graph("{ gpu = 1 }"), room(&["0", "1"]));
        let other = |gpus: &[&str], alone| Taken {
            cpu: 1,
            gpus: gpus.iter().map(|id| (*id).to_owned()).collect(),
            alone,
            ..Taken::default()
        };
        let gpus = |others: &[Taken]| Some(room.admit(&one.stages[0], 1, 3, others)?.gpus);
        assert_eq!(gpus(&[other(&["0"], false)]), Some(vec!["1".to_owned()]));
        assert_eq!(gpus(&[other(&["0"], false), other(&["1"], false)]), None);
        assert_eq!(gpus(&[other(&[], true)]), None);
    }

    #[test]
    fn the_threads_of_a_command_do_not_depend_on_what_is_ready() {
        let mut room = room(&[]);
        room.cpus = 8;
        let threads = |room: &Room, resources: &str, waiting, beside| {
            let seat = room.admit(&graph(resources).stages[0], waiting, beside, &[]);
            seat.expect("room").threads
        };
        assert_eq!(threads(&room, "{}", 3, 3), 2);
        assert_eq!(threads(&room, "{}", 1, 3), 2);
        assert_eq!(threads(&room, "{ cpu = 3 }", 1, 100), 3);
        assert_eq!(threads(&room, "{}", 1, 100), 1);
        room.jobs = 1;
        assert_eq!(threads(&room, "{}", 1, 1), 8);
    }

    #[test]
    fn a_command_that_does_not_ask_has_none() {
        let seat = room(&["0"]).admit(&graph("{ cpu = 1 }").stages[0], 1, 3, &[]);
        assert_eq!(seat.expect("room").gpus, [""; 0]);
    }
}
