//! Processor time that processes have used, as the kernel counts it. Linux only.
//!
//! Figures only grow, so that the difference of two is what was used in between: time of children that have ended is
//! part of their parent's.

use std::collections::HashMap;
use std::fs;
use std::ops::Sub;
use std::time::Duration;

use anyhow::Context as _;

/// The kernel counts in these, whatever it schedules by (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

/// User and system time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) user: Duration,
    pub(crate) system: Duration,
}

impl Used {
    /// Both, in microseconds.
    pub(crate) fn microseconds(self) -> f64 {
        (self.user + self.system).as_secs_f64() * 1e6
    }
}

impl Sub for Used {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
        }
    }
}

/// One process, all its threads.
pub(crate) fn of_process(pid: u32) -> anyhow::Result<Used> {
    let stat = Stat::read(pid).with_context(|| format!("process {pid} is gone"))?;
    Ok(stat.used(false))
}

/// A process and everything below it, children that have ended included.
pub(crate) fn of_tree(root: u32) -> anyhow::Result<Used> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").context("cannot read /proc")? {
        let name = entry?.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok());
        if let Some(pid) = pid
            && let Some(stat) = Stat::read(pid)
        {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    let mut total = Used::default();
    let mut left = vec![root];
    while let Some(pid) = left.pop() {
        if let Some(stat) = Stat::read(pid) {
            let used = stat.used(true);
            total.user += used.user;
            total.system += used.system;
        }
        left.extend(children.remove(&pid).unwrap_or_default());
    }
    Ok(total)
}

/// Bytes of a process that are in memory.
pub(crate) fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("process {pid} is gone"))?;
    let kilobytes = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .context("/proc has no VmRSS")?;
    Ok(kilobytes * 1024)
}

/// What `/proc/PID/stat` says.
struct Stat {
    parent: u32,
    /// utime, stime, cutime, cstime.
    ticks: [u32; 4],
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The second field is a name in parentheses that may contain anything.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse().ok();
        Some(Self {
            parent: number(1)?,
            ticks: [number(11)?, number(12)?, number(13)?, number(14)?],
        })
    }

    fn used(&self, with_ended_children: bool) -> Used {
        let [user, system, ended_user, ended_system] = self.ticks;
        let (more_user, more_system) = if with_ended_children {
            (ended_user, ended_system)
        } else {
            (0, 0)
        };
        Used {
            user: TICK * (user + more_user),
            system: TICK * (system + more_system),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_name_with_parentheses_moves_no_field() {
        let text = "7 (a) b (c) S 3 7 7 0 -1 4194560 1 2 3 4 50 60 70 80 20 0 1 0 9";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.parent, stat.ticks), (3, [50, 60, 70, 80]));
        assert_eq!(stat.used(true).microseconds(), 2_600_000.0);
    }

    #[test]
    fn work_is_counted() {
        let own = std::process::id();
        let before = of_tree(own).unwrap();
        let mut rounds = 0_u64;
        while (of_tree(own).unwrap() - before).microseconds() < 30_000.0 {
            rounds += 1;
        }
        assert!(rounds > 0);
        assert!(resident_bytes(own).unwrap() > 1 << 20);
    }
}
