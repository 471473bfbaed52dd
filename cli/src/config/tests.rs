//! Layers, provenance, secrecy and the listing of mistakes.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use super::value::ByteSize;
use super::*;

fn check(file: &str, flags: &[(&'static str, &str, &str)]) -> Loaded {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tenantry.toml");
    std::fs::write(&path, file).unwrap();
    let flags = flags
        .iter()
        .map(|(name, key, value)| Flag {
            name,
            key: (*key).to_owned(),
            value: (*value).to_owned(),
        })
        .collect();
    let loaded = Sources {
        file: Some(path),
        flags,
    }
    .load()
    .unwrap();
    // Figment shows files relative to the working directory where it can; tests compare the name only.
    Loaded {
        resolved: loaded
            .resolved
            .into_iter()
            .map(|r| Resolved {
                source: base_name(&r.source),
                ..r
            })
            .collect(),
        problems: loaded
            .problems
            .into_iter()
            .map(|p| Problem {
                source: base_name(&p.source),
                ..p
            })
            .collect(),
        ..loaded
    }
}

fn base_name(source: &str) -> String {
    match source.strip_prefix("file ") {
        Some(path) => format!(
            "file {}",
            Path::new(path).file_name().unwrap().to_string_lossy()
        ),
        None => source.to_owned(),
    }
}

fn find<'a>(loaded: &'a Loaded, key: &str) -> &'a Resolved {
    loaded
        .resolved
        .iter()
        .find(|setting| setting.key == key)
        .unwrap()
}

#[test]
fn a_flag_beats_the_file_and_the_file_beats_the_default() {
    let file = "[router]\nlisten = \"127.0.0.1:1\"\npool_size = 7\n";
    let loaded = check(file, &[("--listen", "router.listen", "127.0.0.1:2")]);
    assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
    let listen = find(&loaded, "router.listen");
    assert_eq!(
        (listen.value.as_deref(), listen.source.as_str()),
        (Some("127.0.0.1:2"), "flag --listen")
    );
    let pool = find(&loaded, "router.pool_size");
    assert_eq!(
        (pool.value.as_deref(), pool.source.as_str()),
        (Some("7"), "file tenantry.toml")
    );
    assert_eq!(find(&loaded, "log.format").source, "default");
}

#[test]
fn every_mistake_is_reported_at_once() {
    let file = "
        colour = true
        [router]
        listn = \"127.0.0.1:1\"
        pool_size = \"many\"
        number = -1
        drain_timeout = 30
        [log]
        format = [\"text\"]
    ";
    let failure = check(file, &[]).failure().unwrap();
    insta::assert_snapshot!(failure, @r"
    error: the configuration has 6 problems:
      log.format (file tenantry.toml): expected a single value
      router.number (file tenantry.toml): `-1` is no whole number from 0 to 65535
      router.pool_size (file tenantry.toml): `many` is no whole number from 0 to 18446744073709551615
      router.drain_timeout (file tenantry.toml): `30` is no duration such as `80ms` or `5s`: time unit needed, for example 30sec or 30ms
      colour (file tenantry.toml): unknown key
      router.listn (file tenantry.toml): unknown key, did you mean `router.listen`?
      hint: `tenantry config check` shows every setting with its source
    ");
}

#[test]
fn passwords_never_show() {
    let urls = [
        "postgresql://catalog:s3cret@db.example:5433/tenantry?sslmode=disable",
        "host=db.example user=catalog password=s3cret",
        "postgresql://db.example/tenantry?user=catalog&password=s3cret",
    ];
    for url in urls {
        let loaded = check(&format!("[catalog]\nurl = \"{url}\"\n"), &[]);
        let shown = find(&loaded, "catalog.url").value.clone().unwrap();
        assert!(
            !shown.contains("s3cret") && shown.contains("catalog:***@db.example"),
            "{shown}"
        );
        assert!(!format!("{loaded:?}").contains("s3cret"));
    }
    let wrong = check("[catalog]\nurl = \"postgresql://u:s3cret@h:port/\"\n", &[]);
    assert!(!wrong.failure().unwrap().to_string().contains("s3cret"));
}

#[test]
fn a_path_in_a_file_is_relative_to_the_file() {
    let loaded = check("[secrets]\nfile = \"secrets.toml\"\n", &[]);
    let path = loaded.settings.secrets_file().unwrap();
    assert!(
        path.is_absolute() && path.ends_with("secrets.toml"),
        "{path:?}"
    );
}

#[test]
fn sizes_and_periods_keep_their_units() {
    for (text, bytes) in [
        ("8MiB", 8 << 20),
        ("64KiB", 64 << 10),
        ("512B", 512),
        ("0B", 0),
        ("3GiB", 3 << 30),
    ] {
        let size: ByteSize = text.parse().unwrap();
        assert_eq!(size, ByteSize(bytes));
        assert_eq!(size.to_string(), text);
    }
    for text in ["8MB", "MiB", "-1", "1.5GiB", "99999999999TiB", ""] {
        assert!(text.parse::<ByteSize>().is_err(), "{text}");
    }
    assert_eq!("80ms".parse::<Period>().unwrap().to_string(), "80ms");
    assert!("80".parse::<Period>().is_err());
}
