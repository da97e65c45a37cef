//! CPU and memory of a process and all its children: Viva's engines are processes of their own, so
//! the server's figures are those of the whole tree.

use std::collections::{HashMap, HashSet};

use serde::Serialize;
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// What a tree of processes uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Usage {
    /// CPU seconds since their start, including those of children that ended while we watched.
    pub cpu_s: f64,
    /// Resident memory, MiB. Pages shared between processes count in each.
    pub rss_mib: f64,
    /// Processes alive.
    pub processes: usize,
}

/// Watches one tree.
pub struct ProcessTree {
    root: Pid,
    system: System,
    /// CPU milliseconds of everyone ever seen in it.
    cpu_ms: HashMap<Pid, u64>,
}

impl ProcessTree {
    /// The tree below (and with) this process.
    pub fn new(root: u32) -> Self {
        Self { root: Pid::from_u32(root), system: System::new(), cpu_ms: HashMap::new() }
    }

    /// What it uses now.
    pub fn usage(&mut self) -> Usage {
        let kind = ProcessRefreshKind::nothing().with_cpu().with_memory();
        self.system.refresh_processes_specifics(ProcessesToUpdate::All, true, kind);
        let mut rss = 0;
        let members = self.members();
        for pid in &members {
            let Some(process) = self.system.process(*pid) else { continue };
            rss += process.memory();
            self.cpu_ms.insert(*pid, process.accumulated_cpu_time());
        }
        Usage {
            cpu_s: self.cpu_ms.values().sum::<u64>() as f64 / 1000.0,
            rss_mib: rss as f64 / (1024.0 * 1024.0),
            processes: members.len(),
        }
    }

    fn members(&self) -> HashSet<Pid> {
        let mut children: HashMap<Pid, Vec<Pid>> = HashMap::new();
        for (pid, process) in self.system.processes() {
            // sysinfo lists threads beside processes on Linux; their time is in their process already.
            if let (Some(parent), None) = (process.parent(), process.thread_kind()) {
                children.entry(parent).or_default().push(*pid);
            }
        }
        let mut members = HashSet::new();
        let mut next = vec![self.root];
        while let Some(pid) = next.pop() {
            if self.system.process(pid).is_some() && members.insert(pid) {
                next.extend(children.get(&pid).into_iter().flatten());
            }
        }
        members
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_child_counts_and_its_time_stays_when_it_ends() {
        let mut tree = ProcessTree::new(std::process::id());
        let alone = tree.usage();
        assert!(alone.rss_mib > 1.0, "{alone:?}");
        let mut child = std::process::Command::new("sh")
            .args(["-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; read x"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut with_child = tree.usage();
        // The loop takes some tenths of a second of CPU; a busy machine may take long to give them.
        for _ in 0..200 {
            std::thread::sleep(std::time::Duration::from_millis(50));
            with_child = tree.usage();
            if with_child.cpu_s > alone.cpu_s + 0.1 {
                break;
            }
        }
        assert!(with_child.processes > 0 && with_child.cpu_s > alone.cpu_s + 0.1, "{alone:?} {with_child:?}");
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(tree.usage().cpu_s >= with_child.cpu_s);
    }

    #[test]
    fn a_process_that_is_not_there_uses_nothing() {
        assert_eq!(ProcessTree::new(u32::MAX - 1).usage(), Usage::default());
    }
}
