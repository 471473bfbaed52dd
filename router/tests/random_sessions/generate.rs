//! Random sessions of several clients, from a seed.

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::messages::{Sent, Step};

/// Clients that send the steps; one more looks at the settings at the end.
pub(crate) const CLIENTS: usize = 3;

/// Everything that happens in one comparison.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(crate) seed: u64,
    /// Server connections that the clients share.
    pub(crate) pool: usize,
    pub(crate) steps: Vec<Step>,
}

const SETTINGS: &[(&str, &[&str])] = &[
    (
        "DateStyle",
        &["'SQL, DMY'", "'German'", "'ISO, MDY'", "DEFAULT"],
    ),
    (
        "TimeZone",
        &["'Europe/Vienna'", "'Asia/Tokyo'", "'UTC'", "DEFAULT"],
    ),
    ("work_mem", &["'8MB'", "'5000kB'", "DEFAULT", "'nonsense'"]),
    ("application_name", &["'one'", "'two'", "DEFAULT"]),
    (
        "search_path",
        &["public, pg_catalog", "public", "'$user', public"],
    ),
    ("my.x", &["'a'", "'b c'", "'it''s'"]),
    (
        "IntervalStyle",
        &["'iso_8601'", "'postgres_verbose'", "DEFAULT"],
    ),
    ("no_such_setting", &["1"]),
];

const NAMES: &[&str] = &["s1", "s2"];
const PORTALS: &[&str] = &["", "p1", "c1"];

/// Shown by the last client of every script, which has set nothing.
const LOOK: &str = "SHOW datestyle; SHOW timezone; SHOW work_mem; SHOW application_name; SHOW search_path; \
                    SHOW intervalstyle; SELECT count(*) FROM events";

pub(crate) fn script(seed: u64) -> Script {
    let mut random = SmallRng::seed_from_u64(seed);
    let pool = random.random_range(1..=2);
    let mut steps: Vec<Step> = (0..CLIENTS)
        .map(|client| Step {
            client,
            messages: vec![Sent::Query(format!("SET my.x TO 'of {client}'"))],
        })
        .collect();
    let mut client = 0;
    for _ in 0..random.random_range(4..=16) {
        // A client mostly goes on where it was, so that transactions get somewhere.
        if random.random_ratio(2, 5) {
            client = random.random_range(0..CLIENTS);
        }
        let messages = Generator {
            random: &mut random,
            client,
        }
        .step();
        steps.push(Step { client, messages });
    }
    for client in 0..=CLIENTS {
        let mut messages = vec![Sent::Query("ROLLBACK".to_owned())];
        messages.extend(LOOK.split("; ").map(|text| Sent::Query(text.to_owned())));
        steps.push(Step { client, messages });
    }
    Script { seed, pool, steps }
}

struct Generator<'r> {
    random: &'r mut SmallRng,
    client: usize,
}

impl Generator<'_> {
    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.random.random_range(0..from.len())]
    }

    fn step(&mut self) -> Vec<Sent> {
        match self.random.random_range(0..20) {
            0..=8 => vec![Sent::Query(self.query())],
            9 => self.copy_in(),
            10 => (0..self.random.random_range(2..=3))
                .map(|_| Sent::Query(self.query()))
                .collect(),
            _ => self.pipeline(),
        }
    }

    /// The text of a simple Query.
    fn query(&mut self) -> String {
        match self.random.random_range(0..20) {
            0 => self
                .pick(&["", " ", ";", "/* nothing */", "-- nothing\n;;"])
                .to_owned(),
            1..=13 => self.statement(),
            _ => {
                let count = self.random.random_range(2..=4);
                let parts: Vec<String> = (0..count).map(|_| self.statement()).collect();
                let mut text = parts.join("; ");
                if !text.starts_with("BEGIN ISOLATION") {
                    // The bind may have taken a snapshot before it, see docs/protocol-checklist.md.
                    text = text.replace(" ISOLATION LEVEL REPEATABLE READ", " READ WRITE");
                }
                if self.random.random_ratio(1, 6) {
                    text.push(';');
                }
                text
            }
        }
    }

    fn statement(&mut self) -> String {
        match self.random.random_range(0..100) {
            0..=15 => self.read(),
            16..=26 => self.write(),
            27..=34 => self.wrong(),
            35..=55 => self.transaction(),
            56..=80 => self.setting(),
            81..=90 => self.prepared(),
            91..=98 => self.cursor(),
            _ => "COPY (SELECT id, kind FROM events ORDER BY id) TO STDOUT".to_owned(),
        }
    }

    fn read(&mut self) -> String {
        self.pick(&[
            "SELECT 1",
            "SELECT count(*) FROM events",
            "SELECT id, kind FROM events ORDER BY id",
            "SELECT kind AS k FROM events WHERE id < 0",
            "SELECT generate_series(1, 5)",
            "VALUES (1, 'a'), (2, NULL)",
            "SELECT timestamptz '2026-02-01 12:00+00', date '2026-02-01', interval '1 day 2 hours'",
            "SELECT current_setting('my.x'), current_setting('work_mem')",
            "SELECT",
            "TABLE pg_catalog.pg_no_such_table",
            "SELECT pg_catalog.count(*) FROM public.events",
        ])
        .to_owned()
    }

    fn own_id(&mut self) -> usize {
        self.client * 10 + self.random.random_range(1..=5)
    }

    fn write(&mut self) -> String {
        let id = self.own_id();
        match self.random.random_range(0..5) {
            0 | 1 => format!("INSERT INTO events (id, kind, subject) VALUES ({id}, 'new', 's')"),
            2 => format!("UPDATE events SET kind = kind || '+' WHERE id = {id}"),
            3 => format!("DELETE FROM events WHERE id = {id}"),
            _ => format!(
                "INSERT INTO events (id, kind, subject) VALUES ({id}, 'r', 's') RETURNING id, kind"
            ),
        }
    }

    fn wrong(&mut self) -> String {
        self.pick(&[
            "SELECT 1/0",
            "SELEC 1",
            "SELECT nothing FROM events",
            "SELECT 'x'::int",
            "INSERT INTO events (id, kind, subject) VALUES (1, NULL, 's')",
            "SELECT 'never ends",
            "SELECT set_config('work_mem', 'nonsense', false)",
            "FETCH 1 FROM no_such_cursor",
        ])
        .to_owned()
    }

    fn transaction(&mut self) -> String {
        self.pick(&[
            "BEGIN",
            "BEGIN",
            "BEGIN",
            "START TRANSACTION READ ONLY",
            "BEGIN ISOLATION LEVEL REPEATABLE READ",
            "COMMIT",
            "COMMIT",
            "END",
            "ROLLBACK",
            "ROLLBACK",
            "ABORT",
            "COMMIT AND CHAIN",
            "ROLLBACK AND CHAIN",
            "SAVEPOINT a",
            "SAVEPOINT a",
            "SAVEPOINT b",
            "ROLLBACK TO a",
            "ROLLBACK TO SAVEPOINT a",
            "ROLLBACK TO b",
            "RELEASE a",
            "RELEASE SAVEPOINT b",
            "SET TRANSACTION READ ONLY",
        ])
        .to_owned()
    }

    fn setting(&mut self) -> String {
        let (name, values) = SETTINGS[self.random.random_range(0..SETTINGS.len())];
        let value = self.pick(values);
        let literal = if value.starts_with('\'') && name != "search_path" {
            value
        } else {
            "'public'"
        };
        match self.random.random_range(0..14) {
            0..=3 => format!("SET {name} TO {value}"),
            4..=6 => format!("SET LOCAL {name} = {value}"),
            7 => format!("RESET {name}"),
            8 | 9 => format!("SHOW {name}"),
            10 => format!("SELECT set_config('{name}', {literal}, false)"),
            11 => format!("SELECT set_config('{name}', {literal}, true)"),
            12 => "RESET ALL".to_owned(),
            _ => "DISCARD ALL".to_owned(),
        }
    }

    fn prepared(&mut self) -> String {
        let name = self.pick(NAMES);
        match self.random.random_range(0..12) {
            0 => format!("PREPARE {name} AS SELECT 1"),
            1 => format!("PREPARE {name} (int) AS SELECT $1 + 1"),
            2 => format!("PREPARE {name} AS SELECT kind FROM events WHERE id = $1"),
            3 => format!("PREPARE {name} AS SELECT nothing"),
            4..=6 => format!("EXECUTE {name}"),
            7 | 8 => format!("EXECUTE {name} (11)"),
            9 => format!("DEALLOCATE {name}"),
            10 => "DEALLOCATE ALL".to_owned(),
            _ => format!("DEALLOCATE PREPARE {name}"),
        }
    }

    fn cursor(&mut self) -> String {
        self.pick(&[
            "DECLARE c1 CURSOR FOR SELECT generate_series(1, 5)",
            "DECLARE c1 CURSOR FOR SELECT id FROM events ORDER BY id",
            "FETCH 2 FROM c1",
            "FETCH c1",
            "MOVE 1 FROM c1",
            "CLOSE c1",
            "CLOSE ALL",
            "FETCH ALL FROM p1",
        ])
        .to_owned()
    }

    fn copy_lines(&mut self, out: &mut Vec<Sent>) {
        for _ in 0..self.random.random_range(0..=2) {
            let line = if self.random.random_ratio(1, 6) {
                "no number\tx\ty\n".to_owned()
            } else {
                // Never twice the same: where the guard's trigger looks at each row, PostgreSQL finds a duplicate
                // earlier than where rows are inserted in groups.
                format!(
                    "{}\tcopied\ts\n",
                    self.random.random_range(1_000..1_000_000_000)
                )
            };
            out.push(Sent::CopyData(line));
        }
        out.push(if self.random.random_ratio(1, 4) {
            Sent::CopyFail
        } else {
            Sent::CopyDone
        });
    }

    fn copy_in(&mut self) -> Vec<Sent> {
        let start = self
            .pick(&[
                "COPY events (id, kind, subject) FROM STDIN",
                "COPY events (id, kind, subject) FROM STDIN",
                "COPY no_table FROM STDIN",
                "COPY events (id, kind, subject) FROM STDIN; SELECT 7",
                "SELECT 6; COPY events (id, kind, subject) FROM STDIN",
            ])
            .to_owned();
        let mut out = Vec::new();
        if start.contains(';') || self.random.random() {
            out.push(Sent::Query(start));
            self.copy_lines(&mut out);
            return out;
        }
        self.run(&mut out, start);
        if self.random.random() {
            // As libpq does.
            out.push(Sent::Sync);
        }
        self.copy_lines(&mut out);
        out.push(Sent::Sync);
        out
    }

    fn run(&mut self, out: &mut Vec<Sent>, text: String) {
        let parameters = self.parameters_for(&text);
        out.push(Sent::Parse {
            name: String::new(),
            text,
        });
        out.push(Sent::Bind {
            portal: String::new(),
            statement: String::new(),
            parameters,
        });
        if self.random.random_ratio(2, 3) {
            out.push(Sent::DescribePortal(String::new()));
        }
        out.push(Sent::Execute {
            portal: String::new(),
            rows_max: 0,
        });
    }

    fn parameters_for(&mut self, text: &str) -> Vec<Option<String>> {
        let wanted = text.matches('$').count();
        let given = if self.random.random_ratio(1, 15) {
            wanted + 1
        } else {
            wanted
        };
        (0..given).map(|_| self.value()).collect()
    }

    fn value(&mut self) -> Option<String> {
        self.random
            .random_ratio(5, 6)
            .then(|| self.pick(&["1", "11", "21", "x"]).to_owned())
    }

    /// A statement as the extended protocol takes it, perhaps with a parameter.
    fn extended_text(&mut self) -> String {
        match self.random.random_range(0..12) {
            0 => "SELECT $1::int + 1".to_owned(),
            1 => "SELECT kind FROM events WHERE id = $1".to_owned(),
            2 => "SELECT $1::text".to_owned(),
            3 => "SELECT set_config('my.x', $1, false)".to_owned(),
            4 => self.query(),
            _ => self.statement(),
        }
        // The bind has taken a snapshot before it, see docs/protocol-checklist.md.
        .replace(" ISOLATION LEVEL REPEATABLE READ", " READ WRITE")
    }

    /// A batch of the extended protocol, perhaps with several Syncs and a simple Query in it.
    fn pipeline(&mut self) -> Vec<Sent> {
        let mut out = Vec::new();
        for _ in 0..self.random.random_range(1..=7) {
            self.part(&mut out);
        }
        out.push(Sent::Sync);
        out
    }

    fn part(&mut self, out: &mut Vec<Sent>) {
        let name = self.pick(&["", "s1", "s2"]).to_owned();
        let portal = self.pick(PORTALS).to_owned();
        match self.random.random_range(0..24) {
            0..=7 => {
                let text = self.extended_text();
                self.run(out, text);
            }
            8..=10 => {
                let text = self.extended_text();
                // Executed by SQL it would keep its connection to itself.
                let name = if text.contains("$1, false") {
                    String::new()
                } else {
                    name
                };
                out.push(Sent::Parse { name, text });
            }
            11 | 12 => {
                let count = self.random.random_range(0..=1);
                let parameters = (0..count).map(|_| self.value()).collect();
                out.push(Sent::Bind {
                    portal,
                    statement: name,
                    parameters,
                });
            }
            13 => out.push(Sent::DescribeStatement(name)),
            14 => out.push(Sent::DescribePortal(portal)),
            15 | 16 => out.push(Sent::Execute {
                portal,
                rows_max: self.random.random_range(0..=2),
            }),
            17 => out.push(Sent::CloseStatement(name)),
            18 => out.push(Sent::ClosePortal(portal)),
            19 => out.push(Sent::Flush),
            20 | 21 => out.push(Sent::Sync),
            // A text that does not parse is found late behind what the batch has run, see docs/protocol-checklist.md.
            22 => out.push(Sent::Query(
                self.query()
                    .replace("SELEC 1", "SELECT 1")
                    .replace("'never ends", "'ends'"),
            )),
            _ => {
                let parameters = (0..self.random.random_range(0..=1))
                    .map(|_| self.value())
                    .collect();
                out.push(Sent::Bind {
                    portal: portal.clone(),
                    statement: name,
                    parameters,
                });
                out.push(Sent::DescribePortal(portal.clone()));
                out.push(Sent::Execute {
                    portal,
                    rows_max: self.random.random_range(0..=2),
                });
            }
        }
    }
}
