//! What the platforms are told to run, as they run it.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::{DANAUS, bare, bits, danaus, embed_lines, run, small_model, workspace};
use crate::server::Server;
use crate::usage::SUBCOMMANDS;

fn file(name: &str) -> String {
    std::fs::read_to_string(workspace().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn railway() -> Value {
    serde_json::from_str(&file("railway.json")).unwrap()
}

/// The command of the Procfile's `web` process.
fn web() -> String {
    let procfile = file("Procfile");
    let mut web = procfile.lines().filter_map(|line| line.strip_prefix("web:"));
    let command = web.next().expect("no web process").trim().to_owned();
    assert_eq!(web.next(), None, "two web processes");
    command
}

/// A port that was free just now.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn the_procfiles_command_embeds_at_the_port_that_the_platform_gives() {
    // A folder that has the binary under test where the workspace has that of a release: another target folder or
    // profile must not make this a test of an older binary.
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("target/release")).unwrap();
    symlink(DANAUS, root.path().join("target/release/danaus")).unwrap();
    let port = free_port();
    let mut command = Command::new("sh");
    // `exec`, so that a signal reaches the server and not the shell.
    bare(&mut command).args(["-c", &format!("exec {}", web())]).current_dir(root.path());
    command.env("PORT", port.to_string()).env("DANAUS_MODEL", small_model());
    let mut server = Server::start(&mut command);
    assert_eq!(server.address.port(), port);
    server.wait_until_ready();
    assert_eq!(bits(&server.embed(&["deployed"])[0]), embed_lines("", "deployed\n")[0].bits());
    let health = railway()["deploy"]["healthcheckPath"].as_str().unwrap().to_owned();
    let (status, body) = server.get(&health);
    assert_eq!((status, &body["status"]), (200, &json!("healthy")));
    server.signal("TERM");
    assert_eq!(server.exit_code(), Some(0), "{}", server.log());
}

#[test]
fn railway_builds_what_is_here_and_restarts_it() {
    let railway = railway();
    assert_eq!(railway["build"]["builder"], "DOCKERFILE");
    let dockerfile = railway["build"]["dockerfilePath"].as_str().unwrap();
    assert!(workspace().join(dockerfile).is_file(), "{dockerfile}");
    assert!(["ON_FAILURE", "ALWAYS"].contains(&railway["deploy"]["restartPolicyType"].as_str().unwrap()));
    for pattern in railway["build"]["watchPatterns"].as_array().into_iter().flatten() {
        let path = pattern.as_str().unwrap().trim_end_matches("/**");
        assert!(workspace().join(path).exists(), "{pattern} matches nothing");
    }
}

/// The arguments of an instruction in the Dockerfile's last stage, which has them as a JSON list.
fn instruction(name: &str) -> Vec<String> {
    let dockerfile = file("Dockerfile");
    let stage = dockerfile.rsplit_once("\nFROM ").expect("one stage only").1;
    let lines: Vec<&str> = stage.lines().filter(|line| line.starts_with(name)).collect();
    let [line] = lines[..] else { panic!("{name}: {lines:?}") };
    let list = &line[line.find('[').expect("no list")..];
    serde_json::from_str(list).unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[test]
fn the_images_command_serves_and_its_health_check_says_so() {
    let command = [instruction("ENTRYPOINT"), instruction("CMD")].concat();
    assert_eq!(command[0], "danaus");
    let args: Vec<&str> = command[1..].iter().map(String::as_str).collect();
    let port = free_port().to_string();
    let mut serve = danaus(&args);
    let server = Server::start(serve.env("PORT", &port).env("DANAUS_MODEL", small_model()));
    server.wait_until_ready();
    let check = instruction("HEALTHCHECK");
    assert_eq!(check[0], "danaus");
    let args: Vec<&str> = check[1..].iter().map(String::as_str).collect();
    run(danaus(&args).env("PORT", &port)).exits(0);
    drop(server);
    run(danaus(&args).env("PORT", &port)).exits(1);
}

/// Their manifests are copied one by one, before the sources: a new one must not be forgotten.
#[test]
fn the_dockerfile_knows_every_crate() {
    let dockerfile = file("Dockerfile");
    let crates = std::fs::read_dir(workspace().join("crates")).unwrap();
    for name in crates.map(|entry| entry.unwrap().file_name().into_string().unwrap()) {
        let copy = format!("COPY crates/{name}/Cargo.toml crates/{name}/\n");
        assert!(dockerfile.contains(&copy), "no {copy:?}");
    }
}

/// Words of `text` that begin with `start`, of the characters that names have.
fn words<'a>(text: &'a str, start: &str) -> BTreeSet<&'a str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    text.split(|c| !is_part(c)).filter(|word| word.starts_with(start) && word.len() > start.len()).collect()
}

#[test]
fn options_and_variables_that_the_files_name_exist() {
    let help: String =
        SUBCOMMANDS.iter().map(|name| run(&mut danaus(&[name, "--help"])).exits(0).text()).collect();
    let (variables, options) = (words(&help, "DANAUS_"), words(&help, "--"));
    assert!(variables.len() > 20 && options.len() > 20, "{variables:?} {options:?}");
    for name in ["Procfile", "railway.json", "Dockerfile", "README.md"] {
        let text = file(name);
        let unknown: Vec<_> = words(&text, "DANAUS_").difference(&variables).copied().collect();
        assert!(unknown.is_empty(), "{name} names {unknown:?}");
    }
    let start = railway()["deploy"]["startCommand"].as_str().unwrap_or_default().to_owned();
    for command in [web(), start, instruction("CMD").join(" ")] {
        let unknown: Vec<_> = words(&command, "--").difference(&options).copied().collect();
        assert!(unknown.is_empty(), "{command:?} has {unknown:?}");
    }
}
