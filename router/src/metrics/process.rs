//! What the operating system says of this process, from `/proc`.

use std::fs;

/// The process at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Process {
    pub(crate) resident_bytes: u64,
    pub(crate) virtual_bytes: u64,
    pub(crate) cpu_seconds: f64,
    pub(crate) open_fds: u64,
    pub(crate) max_fds: Option<u64>,
    pub(crate) threads: u64,
    /// Since the epoch.
    pub(crate) start_seconds: f64,
}

/// Clock ticks a second in `/proc`: 100 on every Linux that PostgreSQL runs on.
const TICKS: f64 = 100.0;

/// `None` where there is no `/proc`.
pub(crate) fn read() -> Option<Process> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may contain anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let ticks = |count: u64| count as f64 / TICKS;
    let boot = fs::read_to_string("/proc/stat").ok()?;
    let boot = boot.lines().find_map(|line| line.strip_prefix("btime "))?;
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let number = line.split_whitespace().next()?;
        number.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    Some(Process {
        resident_bytes: kib("VmRSS:")?,
        virtual_bytes: field(23)?,
        cpu_seconds: ticks(field(14)? + field(15)?),
        open_fds: fs::read_dir("/proc/self/fd").ok()?.count() as u64,
        max_fds: max_fds(),
        threads: field(20)?,
        start_seconds: boot.trim().parse::<f64>().ok()? + ticks(field(22)?),
    })
}

fn max_fds() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_can_be_read() {
        let process = read().unwrap();
        assert!(process.resident_bytes > 1 << 20);
        assert!(process.open_fds >= 3 && process.max_fds.unwrap() >= process.open_fds);
        assert!(process.start_seconds > 1e9);
    }
}
