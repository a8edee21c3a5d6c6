//! The list of objects that taskgate made: it alone decides what a run may remove of an earlier one.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use nix::{sys::stat::Mode, unistd::mkfifo};
use taskgate_net::{
    eni::{EniError, EniSpec, InUse, Kept, TaskEni, remove_orphans},
    netlink::Netlink,
};
use testkit::{
    netns::until,
    sandbox::{ip, ip_batch, sandbox},
};

use crate::enis::{open, placeholder, spec};

pub(crate) const LIST: &str = "/run/taskgate/test.provisioned";

pub(crate) fn links() -> Result<BTreeSet<String>> {
    let shown = ip("-o -br link")?;
    let names = shown.lines().filter_map(|line| line.split([' ', '@']).next());
    Ok(names.map(str::to_owned).collect())
}

fn namespaces() -> Result<BTreeSet<String>> {
    match fs::read_dir("/run/netns") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        names => names?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect(),
    }
}

/// The namespace of `web` stays.
fn keeping_web() -> InUse<'static> {
    InUse {
        namespaces: ["web"].into(),
        ..InUse::default()
    }
}

/// The file that lists a link, or a namespace.
pub(crate) fn record(kind: &str) -> Result<PathBuf> {
    let mut found = fs::read_dir(LIST)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    found.retain(|path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(kind))
    });
    ensure!(found.len() == 1, "{found:?}");
    Ok(found.remove(0))
}

/// Changes a single value of a record.
pub(crate) fn edit(path: &Path, from: &str, to: &str) -> Result<()> {
    let text = fs::read_to_string(path)?;
    ensure!(text.matches(from).count() == 1, "`{from}` in {text}");
    Ok(fs::write(path, text.replace(from, to))?)
}

#[test]
fn what_others_say_is_taskgates_stays_theirs() -> Result<()> {
    sandbox(async || {
        let netlink = Netlink::open()?;
        // A process in a namespace can give its links any alias, and this host's administrator may have reasons to do so,
        // too.
        ip("netns add theirs")?;
        let words = ["-n", "theirs", "link", "set", "lo", "alias", "taskgate test"];
        ensure!(Command::new("ip").args(words).status()?.success());
        ip("link add mine type veth peer name other")?;
        ip_batch("link set mine alias \"taskgate test old\"\n")?;
        let before = (links()?, namespaces()?);

        let left = remove_orphans(&netlink, "test", &InUse::default()).await;
        ensure!(left.removed.is_empty() && left.kept.is_empty(), "{left:?}");
        ensure!((links()?, namespaces()?) == before);
        // An ENI in the namespace does not make the namespace taskgate's.
        let all = [[10, 0, 0, 1].into()];
        let theirs = EniSpec {
            namespace: "theirs",
            ..spec("web", &all)
        };
        let (eni, ()) = TaskEni::make(&netlink, &theirs, open).await?;
        ensure!(!eni.made_namespace());
        eni.remove(&netlink).await?;
        ensure!((links()?, namespaces()?) == before);
        Ok(())
    })
}

#[test]
fn the_next_link_of_a_number_and_the_next_namespace_of_a_name_stay() -> Result<()> {
    sandbox(async || {
        let netlink = Netlink::open()?;
        let all = [[10, 0, 0, 1].into()];
        for (killed, alike) in [(false, false), (true, false), (false, true), (true, true)] {
            let (eni, ()) = TaskEni::make(&netlink, &spec("web", &all), open).await?;
            ip("netns del web")?;
            drop(ip(&format!("link del {}", eni.link().name)));
            let ifindex = eni.link().ifindex;
            let gone = || Ok(!links()?.contains(&eni.link().name));
            until("the link is gone", gone)?;
            let name = if alike { &*eni.link().name } else { "another" };
            ip(&format!("link add {name} index {ifindex} type veth peer name other"))?;
            ip("netns add web")?;
            let before = (links()?, namespaces()?);
            if killed {
                let made = eni.link().name.clone();
                drop(eni);
                let left = remove_orphans(&netlink, "test", &InUse::default()).await;
                ensure!(left.removed.is_empty(), "{left:?}");
                match &*left.kept {
                    [Kept::Changed { link }] => ensure!(alike && *link == made),
                    kept => ensure!(!alike && kept.is_empty(), "{kept:?}"),
                }
            } else {
                eni.remove(&netlink).await?;
            }
            ensure!((links()?, namespaces()?) == before, "killed: {killed}, alike: {alike}");
            // A link that may be taskgate's stays in the list until the link is gone.
            ensure!(Path::new(LIST).exists() == alike);
            ip("link del other")?;
            ip("netns del web")?;
            let left = remove_orphans(&netlink, "test", &InUse::default()).await;
            ensure!(left.removed.is_empty() && left.kept.is_empty() && !Path::new(LIST).exists());
        }
        Ok(())
    })
}

#[test]
fn a_run_that_is_killed_anywhere_leaves_nothing_unlisted() -> Result<()> {
    sandbox(async || {
        let netlink = Netlink::open()?;
        let all = [[10, 0, 0, 1].into()];
        let before = links()?;
        for step in ["made", "listed", "link", "named"] {
            let (eni, ()) = TaskEni::make(&netlink, &spec("web", &all), open).await?;
            let (link, ifindex) = (eni.link().name.clone(), eni.link().ifindex);
            drop(eni);
            if step != "made" {
                edit(&record("link-")?, &format!("\"ifindex\":{ifindex}"), "\"ifindex\":null")?;
            }
            match step {
                // Killed before the pair was made, in a namespace whose name did not exist yet.
                "listed" => {
                    ip(&format!("link del {link}"))?;
                    ip("netns del web")?;
                    placeholder("web")?;
                }
                // Killed before the link had its alias.
                "link" => ip_batch(&format!("link set {link} alias \"\"\n"))?,
                _ => {}
            }
            fs::write(Path::new(LIST).join("next"), "{\"boot\":")?;
            let left = remove_orphans(&netlink, "test", &InUse::default()).await;
            ensure!(left.kept.is_empty(), "{step}: {left:?}");
            ensure!(left.removed.is_empty() == (step == "listed"), "{step}: {left:?}");
            ensure!(links()? == before && namespaces()?.is_empty(), "{step}: {:?}", links()?);
            ensure!(!Path::new(LIST).exists(), "{step}");
        }
        Ok(())
    })
}

/// A run's message about a damage, and the damage.
type Damage<'a> = (&'a str, Box<dyn Fn() -> Result<()> + 'a>);

#[test]
fn a_list_that_cannot_be_believed_changes_nothing() -> Result<()> {
    sandbox(async || {
        let netlink = Netlink::open()?;
        let all = [[10, 0, 0, 1].into()];
        let (eni, ()) = TaskEni::make(&netlink, &spec("web", &all), open).await?;
        let link = eni.link().name.clone();
        drop(eni);
        let path = record("link-")?;
        let good = fs::read(&path)?;
        let before = (links()?, namespaces()?);
        let text = String::from_utf8(good.clone())?;
        let write = |text: String| {
            let path = &path;
            Box::new(move || Ok(fs::write(path, &text)?)) as Box<dyn Fn() -> Result<()>>
        };
        let damages: Vec<Damage<'_>> = vec![
            ("EOF while parsing", write(String::new())),
            ("EOF while parsing", write(text[..text.len() / 2].to_owned())),
            ("expected value", write("\0".repeat(512))),
            ("unknown field `pid`", write(text.replacen('{', "{\"pid\":1,", 1))),
            (
                "missing field `alias`",
                write(text.replace(",\"alias\":\"taskgate test web\"", "")),
            ),
            (
                "it names `lo`, which has another file",
                write(text.replacen(&link, "lo", 1)),
            ),
            (
                "has to be user 0's",
                Box::new(|| Ok(fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?)),
            ),
            (
                "Too many levels of symbolic links",
                Box::new(|| {
                    fs::rename(&path, "/run/elsewhere")?;
                    Ok(symlink("/run/elsewhere", &path)?)
                }),
            ),
            (
                "it is no regular file",
                Box::new(|| {
                    fs::remove_file(&path)?;
                    Ok(mkfifo(&path, Mode::S_IRUSR)?)
                }),
            ),
        ];
        for (why, damage) in damages {
            damage()?;
            let left = remove_orphans(&netlink, "test", &keeping_web()).await;
            ensure!(left.removed.is_empty(), "{why}: {left:?}");
            let said: Vec<_> = left.kept.iter().map(ToString::to_string).collect();
            ensure!(
                matches!(&*left.kept, [Kept::Damaged { path: named, .. }] if *named == path) && said[0].contains(why),
                "{why}: {said:?}"
            );
            ensure!((links()?, namespaces()?) == before, "{why}");
            // Nor is the link taken over, or used as the task's own when the task's ENI is made.
            ensure!(TaskEni::adopt(&netlink, &spec("web", &all)).await?.is_none(), "{why}");
            let error = TaskEni::make(&netlink, &spec("web", &all), open).await.unwrap_err();
            ensure!(matches!(error, EniError::Foreign { .. }), "{why}: {error}");
            ensure!((links()?, namespaces()?) == before, "{why}");
            fs::remove_file(&path)?;
            fs::write(&path, &good)?;
        }
        fs::set_permissions(LIST, fs::Permissions::from_mode(0o777))?;
        let left = remove_orphans(&netlink, "test", &InUse::default()).await;
        ensure!(
            matches!(&*left.kept, [Kept::Damaged { path, .. }] if path == Path::new(LIST)),
            "{left:?}"
        );
        ensure!((links()?, namespaces()?) == before);
        // Where nothing can be listed nothing is made.
        let error = TaskEni::make(&netlink, &spec("db", &all), open).await.unwrap_err();
        ensure!(
            error
                .to_string()
                .starts_with(&format!("cannot write `{LIST}/namespace-")),
            "{error}"
        );
        ensure!((links()?, namespaces()?) == before);

        fs::set_permissions(LIST, fs::Permissions::from_mode(0o700))?;
        let left = remove_orphans(&netlink, "test", &InUse::default()).await;
        ensure!(
            left.kept.is_empty() && left.removed == [link, "web".to_owned()],
            "{left:?}"
        );
        Ok(())
    })
}

#[test]
fn another_boots_list_says_nothing_and_another_network_stays() -> Result<()> {
    sandbox(async || {
        let netlink = Netlink::open()?;
        let all = [[10, 0, 0, 1].into()];
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let (eni, ()) = TaskEni::make(&netlink, &spec("web", &all), open).await?;
        let link = eni.link().name.clone();
        drop(eni);
        let before = (links()?, namespaces()?);

        let path = record("link-")?;
        let text = fs::read_to_string(&path)?;
        let inode = text
            .split("\"inode\":")
            .nth(1)
            .and_then(|rest| rest.split([',', '}']).next());
        edit(
            &path,
            &format!("\"inode\":{}", inode.context("no inode")?),
            "\"inode\":1",
        )?;
        let left = remove_orphans(&netlink, "test", &keeping_web()).await;
        ensure!(left.removed.is_empty());
        ensure!(
            matches!(&*left.kept, [Kept::Elsewhere { link: named }] if *named == link),
            "{left:?}"
        );
        ensure!((links()?, namespaces()?) == before && path.exists());

        fs::write(&path, text)?;
        for kind in ["link-", "namespace-"] {
            edit(&record(kind)?, boot.trim(), "00000000-0000-0000-0000-000000000000")?;
        }
        let left = remove_orphans(&netlink, "test", &InUse::default()).await;
        ensure!(left.removed.is_empty() && left.kept.is_empty(), "{left:?}");
        ensure!((links()?, namespaces()?) == before && !Path::new(LIST).exists());
        Ok(())
    })
}
