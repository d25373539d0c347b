#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, test_kill_process};
use steadfast_providers::process::{
    CommandLine, Grace, OwnedChild, ProcessOwner, RunLimits, sweep_orphans,
};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::{Instant, sleep, timeout};

const SHORT: Grace =
    Grace { after_eof: Duration::from_millis(100), after_term: Duration::from_millis(100) };

pub(crate) fn owner(test: &str) -> ProcessOwner {
    ProcessOwner::new(&format!("test-{test}-{}", std::process::id()))
}

pub(crate) fn shell(script: &str) -> CommandLine {
    CommandLine {
        program: "sh".to_owned(),
        args: vec!["-c".to_owned(), script.to_owned()],
        ..CommandLine::default()
    }
}

/// Leaves a process behind that has left its group, and prints its number. Waits until it has left: the
/// group is killed when the shell ends.
fn leaver(directory: &Path, before: &str) -> CommandLine {
    let file = directory.join("pid");
    let file = file.display();
    shell(&format!(
        "setsid sh -c \"{before} echo \\$\\$ > {file}; while :; do sleep 1000; done\" & \
         while [ ! -s {file} ]; do sleep 0.01; done; cat {file}"
    ))
}

fn limits(deadline: Duration, output_bytes: usize) -> RunLimits {
    let deadline = Instant::now() + deadline;
    RunLimits { deadline, output_bytes, after_term: Duration::from_millis(200) }
}

fn alive(pid: i32) -> bool {
    // A zombie still has a number; it is as gone as it can be without its parent.
    let zombie = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")));
    !zombie && test_kill_process(Pid::from_raw(pid).unwrap()).is_ok()
}

/// Waits on the level: until the process is not there any more.
pub(crate) async fn gone(pid: i32) {
    let patience = Instant::now() + Duration::from_secs(20);
    while alive(pid) {
        assert!(Instant::now() < patience, "process {pid} is still there");
        sleep(Duration::from_millis(10)).await;
    }
}

async fn first_number(child: &mut OwnedChild) -> i32 {
    let mut lines = BufReader::new(child.take_stdout().unwrap()).lines();
    lines.next_line().await.unwrap().unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn a_command_gets_its_input_and_a_minimal_environment() {
    let mut line = shell("cat; env | sort | cut -d= -f1 | tr '\\n' ' '");
    line.env.push(("EXTRA".to_owned(), "1".to_owned()));
    let input = Some(b"hello ".to_vec());
    let done =
        owner("input").run(&line, input, limits(Duration::from_secs(20), 4096)).await.unwrap();
    assert!(done.status.unwrap().success());
    let text = done.stdout.text();
    assert!(text.starts_with("hello "), "{text}");
    assert!(text.contains("EXTRA") && text.contains("STEADFAST_OWNER"), "{text}");
    // cargo sets it for every test.
    assert!(!text.contains("CARGO_MANIFEST_DIR"), "{text}");
}

#[tokio::test]
async fn a_child_that_ignores_eof_and_term_is_killed() {
    let owner = owner("stubborn");
    let line = shell("trap '' TERM; echo $$; while :; do sleep 1000; done");
    let mut child = owner.spawn(&line).unwrap();
    let pid = first_number(&mut child).await;
    let status = child.end(SHORT).await.unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    gone(pid).await;
}

#[tokio::test]
async fn a_child_that_obeys_eof_is_not_signalled() {
    let child = owner("obedient").spawn(&shell("cat; exit 7")).unwrap();
    let patient = Grace { after_eof: Duration::from_secs(20), ..SHORT };
    assert_eq!(child.end(patient).await.unwrap().code(), Some(7));
}

#[tokio::test]
async fn dropping_the_handle_kills_the_group() {
    let mut child = owner("dropped").spawn(&shell("sleep 1000 & echo $!; wait")).unwrap();
    let grandchild = first_number(&mut child).await;
    let pid = i32::try_from(child.pid().unwrap()).unwrap();
    drop(child);
    gone(grandchild).await;
    gone(pid).await;
}

#[tokio::test]
async fn dropping_a_run_kills_the_command() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pid");
    let line = shell(&format!("echo $$ > {0}.new; mv {0}.new {0}; sleep 1000", path.display()));
    let owner = owner("cancelled");
    let mut run = Box::pin(owner.run(&line, None, limits(Duration::from_secs(60), 4096)));
    let pid = loop {
        assert!(timeout(Duration::from_millis(10), &mut run).await.is_err());
        if let Ok(text) = std::fs::read_to_string(&path) {
            break text.trim().parse().unwrap();
        }
    };
    drop(run);
    gone(pid).await;
}

#[tokio::test]
async fn a_command_is_ended_at_its_deadline_and_its_output_kept() {
    let line = shell("echo begun; trap '' TERM; while :; do sleep 1000; done");
    let done = owner("late").run(&line, None, limits(Duration::from_secs(1), 4096)).await.unwrap();
    assert!(done.status.is_none());
    assert_eq!(done.stdout.text(), "begun\n");
}

#[tokio::test]
async fn huge_output_is_cut_in_the_middle() {
    let line = shell("echo first; head -c 20000000 /dev/zero | tr '\\0' x; echo; echo last");
    let done = owner("huge").run(&line, None, limits(Duration::from_secs(60), 1000)).await.unwrap();
    let text = done.stdout.text();
    assert!(text.starts_with("first\n") && text.ends_with("last\n"), "{text}");
    assert!(text.len() < 1100, "{}", text.len());
    assert_eq!(done.stdout.left_out(), 20_000_000 + 12 - 1000);
}

#[tokio::test]
async fn a_grandchild_outside_the_group_that_holds_the_pipe_does_not_hold_the_result() {
    let owner = owner("holder");
    let directory = tempfile::tempdir().unwrap();
    let line = leaver(directory.path(), "");
    let run = owner.run(&line, None, limits(Duration::from_secs(60), 4096));
    let done = timeout(Duration::from_secs(30), run).await.unwrap().unwrap();
    assert!(done.status.unwrap().success());
    let pid = done.stdout.text().trim().parse().unwrap();
    assert!(alive(pid));
    assert!(sweep_orphans(owner.id(), Duration::from_secs(5)).await >= 1);
    gone(pid).await;
}

#[tokio::test]
async fn a_grandchild_inside_the_group_ends_with_its_parent() {
    let line = shell("sleep 1000 & echo $!");
    let run = owner("left").run(&line, None, limits(Duration::from_secs(60), 4096)).await;
    gone(run.unwrap().stdout.text().trim().parse().unwrap()).await;
}

#[tokio::test]
async fn the_sweep_ends_stubborn_orphans_and_spares_other_owners() {
    let (mine, other) = (owner("swept"), owner("swept-not"));
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let orphan = async |owner: &ProcessOwner, directory: &tempfile::TempDir| {
        let line = leaver(directory.path(), "trap '' TERM; exec >/dev/null 2>&1;");
        let done = owner.run(&line, None, limits(Duration::from_secs(30), 99)).await;
        done.unwrap().stdout.text().trim().parse::<i32>().unwrap()
    };
    let orphan_mine = orphan(&mine, &directories[0]).await;
    let orphan_other = orphan(&other, &directories[1]).await;
    assert!(sweep_orphans(mine.id(), Duration::from_millis(100)).await >= 1);
    gone(orphan_mine).await;
    assert!(alive(orphan_other));
    assert!(sweep_orphans(other.id(), Duration::from_millis(100)).await >= 1);
    gone(orphan_other).await;
    assert_eq!(sweep_orphans(mine.id(), Duration::ZERO).await, 0);
}

#[tokio::test]
async fn what_cannot_be_started_is_named() {
    let owner = owner("none");
    let missing = CommandLine { program: "no-such-program".to_owned(), ..CommandLine::default() };
    assert!(owner.spawn(&missing).unwrap_err().to_string().contains("no-such-program"));
    let mut nowhere = shell("true");
    nowhere.cwd = Some("/no/such/directory".into());
    assert!(owner.spawn(&nowhere).unwrap_err().to_string().contains("/no/such/directory"));
}
