//! ENIs that an earlier run made, taken over by the next.

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, Result, ensure};
use taskgate_net::{
    eni::{EniError, EniSpec, TaskEni},
    netlink::Netlink,
    sysctl::NeighbourControl,
};
use testkit::{
    Netns,
    sandbox::{ip, ip_batch, sandbox},
};

use crate::{
    enis::{addresses, open, spec},
    provisioned::{LIST, edit, links, record},
};

/// All parts of the ENI of `web`, as `ip` shows them.
fn parts(link: &str) -> Result<BTreeSet<String>> {
    let mut parts = BTreeSet::new();
    for (words, by_line) in [
        ("-n web -br address show dev eth0".to_owned(), false),
        ("-n web route show".to_owned(), true),
        ("-n web -6 route show default".to_owned(), true),
        ("-n web neighbour show nud permanent".to_owned(), true),
        (format!("-br address show dev {link}"), false),
        (format!("route show dev {link}"), true),
        (format!("-6 route show dev {link}"), true),
        (format!("neighbour show nud permanent dev {link}"), true),
    ] {
        let shown = ip(&words)?;
        let shown: Vec<&str> = if by_line {
            shown.lines().map(str::trim).collect()
        } else {
            shown.split_whitespace().collect()
        };
        // The kernel assigns the task's end a link-local address, and marks links as up, with a delay: these parts are
        // not compared.
        let own = |part: &&str| {
            !words.contains("-br")
                || !(*part == "UP" || *part == "DOWN" || words.contains("web") && part.starts_with("fe80::"))
        };
        parts.extend(shown.into_iter().filter(own).map(|part| format!("{words}: {part}")));
    }
    for words in [
        "-n web -o link show dev eth0".to_owned(),
        format!("-o link show dev {link}"),
    ] {
        let is_up = ip(&words)?.contains(",UP");
        parts.insert(format!("{words}: up {is_up}"));
    }
    Ok(parts)
}

/// Makes the ENI like a run that is killed afterwards; returns its link's name and ifindex.
async fn killed(netlink: &Netlink, spec: &EniSpec<'_>) -> Result<(String, u32)> {
    let (eni, ()) = TaskEni::make(netlink, spec, open).await?;
    Ok((eni.link().name.clone(), eni.link().ifindex))
}

async fn adopted(netlink: &Netlink, spec: &EniSpec<'_>) -> Result<TaskEni> {
    TaskEni::adopt(netlink, spec).await?.context("it is not taken over")
}

async fn readdress(netlink: &Netlink, eni: &mut TaskEni, spec: &EniSpec<'_>) -> Result<()> {
    eni.withdraw(netlink, spec.addresses).await?;
    eni.assign(netlink, spec.addresses).await?;
    Ok(())
}

#[test]
fn an_eni_is_taken_over_as_it_is() -> Result<()> {
    sandbox(async || {
        let netlink = Netlink::open()?;
        let all = addresses(1);
        let spec = spec("web", &all);
        ensure!(TaskEni::adopt(&netlink, &spec).await?.is_none());
        let (made, ()) = TaskEni::make(&netlink, &spec, open).await?;
        let (link, warnings) = (made.link().clone(), made.warnings().to_vec());
        drop(made);
        let (before, listed) = (parts(&link.name)?, fs::read(record("link-")?)?);
        for control in NeighbourControl::ALL {
            let sysctl = control.sysctl(&link.name).to_string().replace('.', "/");
            fs::write(format!("/proc/sys/{sysctl}"), "1")?;
        }
        let forwarding = format!("/proc/sys/net/ipv4/conf/{}/forwarding", link.name);
        fs::write(&forwarding, "0")?;

        let mut eni = adopted(&netlink, &spec).await?;
        ensure!(eni.link() == &link && eni.made_namespace() && eni.namespace().name() == "web");
        ensure!(eni.warnings() == warnings, "{:?}", eni.warnings());
        ensure!(NeighbourControl::ALL.map(|control| control.is_heeded(&link.name)) == [false; 3]);
        ensure!(fs::read_to_string(&forwarding)?.trim() == "1");
        readdress(&netlink, &mut eni, &spec).await?;
        ensure!(parts(&link.name)? == before && fs::read(record("link-")?)? == listed);

        // The next run finds the addresses that this run assigned.
        let other = [all[1], [10, 0, 3, 1].into()];
        let other = EniSpec {
            addresses: &other,
            ..spec
        };
        readdress(&netlink, &mut eni, &other).await?;
        drop(eni);
        let (moved, listed) = (parts(&link.name)?, fs::read(record("link-")?)?);
        let mut eni = adopted(&netlink, &other).await?;
        readdress(&netlink, &mut eni, &other).await?;
        ensure!(parts(&link.name)? == moved && fs::read(record("link-")?)? == listed);
        drop(eni);
        let mut eni = adopted(&netlink, &spec).await?;
        readdress(&netlink, &mut eni, &spec).await?;
        ensure!(parts(&link.name)? == before, "{:?}", parts(&link.name)?);

        eni.remove(&netlink).await?;
        ensure!(links()? == ["lo".to_owned()].into() && fs::read_dir("/run/netns")?.count() == 0);
        ensure!(!fs::exists(LIST)?);
        Ok(())
    })
}

#[test]
fn addresses_that_are_there_in_part_are_completed() -> Result<()> {
    sandbox(async || {
        let netlink = Netlink::open()?;
        let all = addresses(1);
        let spec = spec("web", &all);
        let (link, ifindex) = killed(&netlink, &spec).await?;
        // A task's own affair.
        ip("-n web address add 192.0.2.7/32 dev eth0")?;
        let before = parts(&link)?;
        for damage in [
            vec!["-n web address del 10.0.1.1/32 dev eth0"],
            vec!["-n web address del fd00::1/128 dev eth0"],
            vec!["route del 10.0.2.1 dev {}"],
            vec!["-6 route del fd00::1 dev {}"],
            // All parts of one address.
            vec!["-n web address del 10.0.2.1/32 dev eth0", "route del 10.0.2.1 dev {}"],
            // A link that goes down loses the routes to it.
            vec!["link set {} down", "link set {} up"],
        ] {
            for words in &damage {
                ip(&words.replace("{}", &link))?;
            }
            let mut eni = adopted(&netlink, &spec).await?;
            readdress(&netlink, &mut eni, &spec).await?;
            let after = parts(&link)?;
            ensure!(after == before, "{damage:?}: {:?}", before.symmetric_difference(&after));
            ensure!(eni.link().ifindex == ifindex);
        }
        // Killed while the addresses were being assigned, before the task sends from them.
        edit(&record("link-")?, "\"changing\":false", "\"changing\":true")?;
        ip("-n web route del default")?;
        let mut eni = adopted(&netlink, &spec).await?;
        readdress(&netlink, &mut eni, &spec).await?;
        ensure!(parts(&link)? == before);
        // Killed while they were given to another task.
        ip("route del 10.0.2.1 dev {}".replace("{}", &link).as_str())?;
        let fewer = EniSpec {
            addresses: &[all[0], all[2]],
            ..spec
        };
        let mut eni = adopted(&netlink, &fewer).await?;
        readdress(&netlink, &mut eni, &fewer).await?;
        let gone: Vec<_> = before.difference(&parts(&link)?).cloned().collect();
        ensure!(
            gone.len() == 3 && gone.iter().all(|part| part.contains("10.0.2.1")),
            "{gone:?}"
        );
        Ok(())
    })
}

#[test]
fn a_link_is_known_under_another_name() -> Result<()> {
    sandbox(async || {
        let netlink = Netlink::open()?;
        let all = addresses(1);
        let spec = spec("web", &all);
        let (link, ifindex) = killed(&netlink, &spec).await?;
        let rename = |from: &str, to: &str| {
            // Older kernels rename no link that is up.
            [format!("{from} down"), format!("{from} name {to}"), format!("{to} up")]
                .iter()
                .try_for_each(|words| ip(&format!("link set {words}")).map(drop))
        };
        let before = parts(&link)?;
        rename(&link, "theirs")?;
        let mut eni = adopted(&netlink, &spec).await?;
        ensure!(eni.link().name == "theirs" && eni.link().ifindex == ifindex);
        readdress(&netlink, &mut eni, &spec).await?;
        let after: BTreeSet<_> = parts("theirs")?
            .iter()
            .map(|part| part.replace("theirs", &link))
            .collect();
        ensure!(after == before, "{:?}", before.symmetric_difference(&after));
        drop(eni);
        // If the ENI is made again, its previous link is removed.
        let (eni, ()) = TaskEni::make(&netlink, &spec, open).await?;
        ensure!(links()? == ["lo".to_owned(), link].into() && eni.link().ifindex != ifindex);
        Ok(())
    })
}

#[test]
fn what_is_not_as_it_was_made_is_made_anew() -> Result<()> {
    sandbox(async || {
        let netlink = Netlink::open()?;
        let all = addresses(1);
        let spec = spec("web", &all);
        let cases: [(&str, &[&str]); 9] = [
            ("incomplete", &[]),
            ("down", &["link set {} down"]),
            ("mac", &["link set {} address 02:00:00:00:00:09"]),
            ("inside down", &["-n web link set eth0 down"]),
            ("inside mac", &["-n web link set eth0 address 02:00:00:00:00:09"]),
            (
                "inside renamed",
                &[
                    "-n web link set eth0 down",
                    "-n web link set eth0 name net1",
                    "-n web link set net1 up",
                ],
            ),
            ("inside deleted", &["-n web link del eth0"]),
            ("another namespace", &["netns del web", "netns add web"]),
            ("no namespace", &["netns del web"]),
        ];
        for (case, changes) in cases {
            let (link, ifindex) = killed(&netlink, &spec).await?;
            // An open descriptor keeps the namespace, as a process inside would.
            let _inside = Netns::named("web")?;
            if case == "incomplete" {
                let path = record("link-")?;
                let text = fs::read_to_string(&path)?;
                let (made, _) = text.split_once(",\"complete\"").context("no such key")?;
                // As an earlier taskgate wrote it.
                fs::write(&path, format!("{made}}}"))?;
            }
            for words in changes {
                ip(&words.replace("{}", &link))?;
            }
            ensure!(TaskEni::adopt(&netlink, &spec).await?.is_none(), "{case}");
            let (eni, ()) = TaskEni::make(&netlink, &spec, open).await?;
            ensure!(eni.link().ifindex != ifindex && eni.link().name == link, "{case}");
            ensure!(
                links()? == ["lo".to_owned(), link.clone()].into(),
                "{case}: {:?}",
                links()?
            );
            ensure!(eni.made_namespace() == (case != "another namespace"), "{case}");
            drop(eni);
            let eni = adopted(&netlink, &spec).await.context(case)?;
            eni.remove(&netlink).await?;
            if case == "another namespace" {
                ip("netns del web")?;
            }
        }
        Ok(())
    })
}

#[test]
fn what_somebody_made_of_it_is_refused() -> Result<()> {
    sandbox(async || {
        let netlink = Netlink::open()?;
        let all = addresses(1);
        let spec = spec("web", &all);
        let (link, _) = killed(&netlink, &spec).await?;
        ip_batch(&format!("link set {link} alias mine\n"))?;
        ensure!(TaskEni::adopt(&netlink, &spec).await?.is_none());
        let error = TaskEni::make(&netlink, &spec, open).await.unwrap_err();
        ensure!(matches!(error, EniError::Foreign { .. }), "{error}");
        ensure!(
            error.to_string().contains("(it says `mine`): remove or rename it"),
            "{error}"
        );
        ip_batch(&format!("link set {link} alias \"taskgate test web\"\n"))?;
        drop(adopted(&netlink, &spec).await?);

        // Another `eth0` than the link's other end.
        ip("-n web link set eth0 down")?;
        ip("-n web link set eth0 name net1")?;
        ip("-n web link set net1 up")?;
        ip("-n web link add eth0 type bridge")?;
        ensure!(TaskEni::adopt(&netlink, &spec).await?.is_none());
        let error = TaskEni::make(&netlink, &spec, open).await.unwrap_err();
        ensure!(matches!(error, EniError::Occupied { .. }), "{error}");
        Ok(())
    })
}
