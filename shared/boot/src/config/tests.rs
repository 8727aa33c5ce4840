//! Precedence, refusals and redaction of the whole configuration.

use serde::Deserialize;

use super::*;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    name: String,
    log: Log,
    traces: Traces,
    http: Http,
    grpc: Grpc,
    tls: Tls,
    access: AccessSection,
    shutdown: Shutdown,
    broker: Broker,
    lax: Lax,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Broker {
    url: Secret,
    password: Option<Secret>,
    prefetch: u16,
    check_delays_ms: Vec<u64>,
}

/// A section whose author forgot `deny_unknown_fields`.
#[derive(Debug, Serialize, Deserialize)]
struct Lax {
    limit: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "orders".to_owned(),
            log: Log::default(),
            traces: Traces::default(),
            http: Http::loopback(7111),
            grpc: Grpc::loopback(7101),
            tls: Tls::default(),
            access: AccessSection::default(),
            shutdown: Shutdown::default(),
            broker: Broker {
                url: "amqp://guest:guest@127.0.0.1:5672/%2f".into(),
                password: None,
                prefetch: 50,
                check_delays_ms: vec![120_000],
            },
            lax: Lax { limit: 3 },
        }
    }
}

impl Settings for Config {
    fn frame(&self) -> Frame<'_> {
        let Self { log, traces, http, grpc, tls, access, shutdown, .. } = self;
        Frame { log, traces, http, grpc, tls, access, shutdown }
    }

    fn validate(&self) -> Vec<String> {
        if self.broker.prefetch == 0 { vec!["broker.prefetch is 0: give at least 1".to_owned()] } else { Vec::new() }
    }
}

fn from(file: &str, variables: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("service.toml");
    std::fs::write(&path, file).unwrap();
    let variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    match load(Some(&path), variables) {
        Ok(config) => Ok(config),
        Err(Error::Config(problems)) => Err(problems),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn without_file_and_variables_the_defaults_hold_secrets_included() {
    let config: Config = load(None, []).unwrap();
    assert_eq!(config.broker.url.expose(), "amqp://guest:guest@127.0.0.1:5672/%2f");
    assert_eq!(config.grpc, Grpc::loopback(7101));
}

#[test]
fn a_variable_beats_the_file_and_the_file_beats_the_default() {
    let file = "name = \"a\"\n[broker]\nprefetch = 7\n[shutdown]\ngrace_ms = 5\n[grpc]\nmax_streams = 2\n";
    let config = from(file, &[("COUNTERSIGN_BROKER__PREFETCH", "9"), ("COUNTERSIGN_NAME", "b")]).unwrap();
    assert_eq!((config.broker.prefetch, config.shutdown.grace_ms, config.name.as_str()), (9, 5, "b"));
    assert_eq!(config.grpc.listen.port(), 7101, "the rest of a section keeps the service's own defaults");
    assert_eq!(config.broker.check_delays_ms, [120_000]);
}

#[test]
fn variables_take_the_type_of_their_key() {
    let variables = [
        ("COUNTERSIGN_NAME", "007"),
        ("COUNTERSIGN_BROKER__PASSWORD", "0042"),
        ("COUNTERSIGN_BROKER__CHECK_DELAYS_MS", "[1, 2]"),
        ("COUNTERSIGN_TRACES__OTLP_ENDPOINT", "http://127.0.0.1:4317"),
        ("COUNTERSIGN_TRACES__SAMPLE_RATIO", "0.25"),
    ];
    let config = from("", &variables).unwrap();
    assert_eq!(config.name, "007");
    assert_eq!(config.broker.password.unwrap().expose(), "0042");
    assert_eq!(config.broker.check_delays_ms, [1, 2]);
    assert_eq!(config.traces.otlp_endpoint.as_deref(), Some("http://127.0.0.1:4317"));
    assert!((config.traces.sample_ratio - 0.25).abs() < f64::EPSILON);
}

#[test]
fn a_secret_that_looks_like_something_else_stays_what_it_is() {
    for text in ["0042", "42", "-7", "1.50", "1.5", "1e9", "true", "hunter2", "18446744073709551616"] {
        let config = from("", &[("COUNTERSIGN_BROKER__PASSWORD", text)]).unwrap();
        assert_eq!(config.broker.password.unwrap().expose(), text);
    }
}

#[test]
fn an_unknown_key_is_refused_with_the_closest_known_ones_and_its_place() {
    let problems = from("[http]\nlistn = \"127.0.0.1:1\"\n", &[]).unwrap_err();
    assert!(problems[0].starts_with("unknown key `http.listn` (from "), "{problems:?}");
    assert!(problems[0].contains("service.toml"), "{problems:?}");
    assert!(problems[0].contains("closest known: `http.listen`"), "{problems:?}");

    let problems = from("", &[("COUNTERSIGN_BROKR__URL", "x")]).unwrap_err();
    assert!(problems[0].starts_with("unknown key `brokr` (from the environment): closest known: `broker`"), "{problems:?}");
}

#[test]
fn a_section_that_only_another_service_has_is_passed_over_in_the_environment() {
    from("", &[("COUNTERSIGN_REDIS__URL", "redis://127.0.0.1")]).unwrap();
    let problems = from("", &[("COUNTERSIGN_REDSI__URL", "redis://127.0.0.1")]).unwrap_err();
    assert!(problems[0].starts_with("unknown key `redsi`"), "{problems:?}");
}

#[test]
fn an_unknown_key_is_refused_even_where_its_section_would_let_it_pass() {
    let problems = from("[lax]\nlimt = 3\n", &[]).unwrap_err();
    assert_eq!(problems, ["unknown key `lax.limt`: closest known: `lax.limit`"]);
}

#[test]
fn variables_of_others_are_left_alone_and_a_missing_underscore_is_not() {
    let others = [
        ("COUNTERSIGN_CONFIG", "x"),
        ("COUNTERSIGN_LONG", "1"),
        ("COUNTERSIGN_TEST_DATABASE__URL", "x"),
        ("COUNTERSIGN_UPSTREAM_SERVICE_HOST", "10.0.0.1"),
        ("HOME", "x"),
    ];
    assert!(from("", &others).is_ok());
    let problems = from("", &[("COUNTERSIGN_BROKER_PREFETCH", "9")]).unwrap_err();
    assert!(problems[0].contains("write COUNTERSIGN_BROKER__PREFETCH"), "{problems:?}");
}

#[test]
fn a_value_of_the_wrong_type_names_its_key() {
    let problems = from("", &[("COUNTERSIGN_BROKER__PREFETCH", "many")]).unwrap_err();
    assert!(problems[0].starts_with("key `broker.prefetch` (from the environment): "), "{problems:?}");
}

#[test]
fn every_problem_of_validation_is_told_at_once() {
    let file = "[broker]\nprefetch = 0\n[traces]\nsample_ratio = 7.0\n[log]\nfilter = \"a=b=c\"\n";
    let problems = from(file, &[]).unwrap_err();
    assert_eq!(problems.len(), 3, "{problems:?}");
}

#[test]
fn a_section_with_its_address_only_keeps_the_bounds_and_each_bound_can_be_set() {
    let config = from("[http]\nlisten = \"127.0.0.1:1\"\n", &[("COUNTERSIGN_HTTP__HEADER_TIMEOUT_MS", "500")]).unwrap();
    let expected = Http { listen: "127.0.0.1:1".parse().unwrap(), header_timeout_ms: 500, ..Http::loopback(0) };
    assert_eq!(config.http, expected);
    for key in ["max_connections = 1024", "header_timeout_ms = 500", "idle_timeout_ms = 120000", "keepalive_ms = 20000"] {
        assert!(show(&config).contains(key), "no {key} in {}", show(&config));
    }
}

#[test]
fn a_bound_of_connections_that_cannot_hold_is_refused_with_its_key() {
    for (section, key) in [
        ("http", "max_connections"),
        ("http", "header_timeout_ms"),
        ("http", "idle_timeout_ms"),
        ("http", "keepalive_ms"),
        ("grpc", "max_connections"),
    ] {
        for value in ["0", "86400001"] {
            let problems = from(&format!("[{section}]\n{key} = {value}\n"), &[]).unwrap_err();
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].starts_with(&format!("{section}.{key} is {value}: give 1 to ")), "{problems:?}");
        }
    }
}

#[test]
fn a_secret_can_stand_in_a_file_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("url");
    std::fs::write(&path, "amqp://a:b@c\n").unwrap();
    let path = path.to_str().unwrap();
    let config = from(&format!("[broker]\nurl = {{ file = \"{path}\" }}\n"), &[]).unwrap();
    assert_eq!(config.broker.url.expose(), "amqp://a:b@c");
    let config = from("[broker]\nurl = \"amqp://x\"\n", &[("COUNTERSIGN_BROKER__URL__FILE", path)]).unwrap();
    assert_eq!(config.broker.url.expose(), "amqp://a:b@c");

    let problems = from("[broker]\nurl = { file = \"/nowhere\" }\n", &[]).unwrap_err();
    assert!(problems[0].contains("broker.url") && problems[0].contains("/nowhere"), "{problems:?}");
}

#[test]
fn what_is_shown_hides_secrets_and_can_be_read_again() {
    let config = from("[broker]\npassword = \"hunter2\"\n", &[]).unwrap();
    let shown = show(&config);
    assert!(shown.contains("url = \"amqp://guest:***@127.0.0.1:5672/%2f\""), "{shown}");
    assert!(shown.contains("password = \"***\""), "{shown}");
    assert!(!shown.contains("hunter2") && !format!("{config:?}").contains("hunter2"));
    assert_eq!(from(&shown, &[]).unwrap().broker.prefetch, 50);
}

#[test]
fn a_part_passes_over_what_it_does_not_know() {
    #[derive(Debug, Default, Serialize, Deserialize)]
    #[serde(default)]
    struct Part {
        lax: OptionalLimit,
    }
    #[derive(Debug, Default, Serialize, Deserialize)]
    #[serde(default)]
    struct OptionalLimit {
        limit: Option<u32>,
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("part.toml");
    std::fs::write(&file, "strange = 1\n[lax]\nlimit = 7\nother = 2\n[broker]\nurl = \"x\"\n").unwrap();
    let environment = |text: &str| vec![("COUNTERSIGN_LAX__LIMIT".to_owned(), text.to_owned())];
    assert_eq!(load_part::<Part>(Some(&file), Vec::new()).unwrap().lax.limit, Some(7));
    assert_eq!(load_part::<Part>(Some(&file), environment("8")).unwrap().lax.limit, Some(8));
    let Err(Error::Config(problems)) = load_part::<Part>(Some(&file), environment("many")) else { panic!("not a number") };
    assert!(problems[0].contains("lax.limit"), "{problems:?}");
}
