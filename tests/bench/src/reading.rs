//! Reading a large account: time and memory of `taskgate check` on a folder with output of the AWS CLI. `cargo xtask
//! bench reading` runs this.

use std::{
    env, fs,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use serde::Serialize as _;
use serde_json::{
    Value, json,
    ser::{PrettyFormatter, Serializer},
};

/// The size of the account, and the number of rounds.
#[derive(Clone, Copy, Debug)]
pub struct ReadingEffort {
    /// Security groups.
    pub groups: usize,
    pub rules: usize,
    /// Network interfaces.
    pub enis: usize,
    /// The number of rounds.
    pub rounds: u32,
}

impl ReadingEffort {
    /// For published figures.
    pub const FULL: Self = Self {
        groups: 2_500,
        rules: 31,
        enis: 20_000,
        rounds: 7,
    };
    /// Enough to see that everything works.
    pub const QUICK: Self = Self {
        groups: 100,
        rules: 31,
        enis: 1_000,
        rounds: 2,
    };
}

/// Tasks of this host among the interfaces.
const TASKS: usize = 50;

/// Writes the account, has it checked, and reports the time.
///
/// # Errors
/// The folder cannot be written, or `taskgate check` refuses it.
pub fn run(effort: ReadingEffort) -> Result<String> {
    let folder = env::temp_dir().join(format!("taskgate-bench-reading-{}", std::process::id()));
    let measured = measure(effort, &folder);
    fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    measured
}

fn measure(effort: ReadingEffort, folder: &Path) -> Result<String> {
    let binary: PathBuf = env::var_os("TASKGATE_BIN")
        .context("TASKGATE_BIN does not name the program to measure")?
        .into();
    let bytes = write(effort, folder)?;
    let mut times = Vec::new();
    for _ in 0..effort.rounds {
        let began = Instant::now();
        let output = Command::new(&binary)
            .args(["check", "--config"])
            .arg(folder)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {}", binary.display()))?;
        times.push(began.elapsed());
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`taskgate check` refused the folder: {errors}");
    }
    times.sort();
    // The most of any child, in KiB; every child was the same.
    let peak = getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss();
    let ms = |time: Duration| time.as_millis();
    Ok(format!(
        "{} groups, {} rules, {} interfaces, {} MB: `taskgate check` takes {} ms (least {}, most {}, {} rounds) and {} MB\n",
        effort.groups,
        effort.groups * effort.rules,
        effort.enis,
        bytes / 1_000_000,
        ms(times[times.len() / 2]),
        ms(times[0]),
        ms(times[times.len() - 1]),
        effort.rounds,
        peak * 1024 / 1_000_000,
    ))
}

/// Writes the account as the AWS CLI prints it, and [`TASKS`] tasks. Returns how many bytes that are.
///
/// # Errors
/// The folder cannot be written.
pub fn write(effort: ReadingEffort, folder: &Path) -> Result<u64> {
    fs::create_dir_all(folder)?;
    let groups = (0..effort.groups).map(|number| group(number, effort));
    let enis = (0..effort.enis).map(|number| eni(number, effort));
    let mut bytes = print(&folder.join("describe-security-groups.json"), "SecurityGroups", groups)?;
    bytes += print(
        &folder.join("describe-network-interfaces.json"),
        "NetworkInterfaces",
        enis,
    )?;
    let tasks: Vec<Value> = (0..TASKS.min(effort.enis))
        .map(|number| json!({"name": format!("task-{number}"), "eni": id("eni", number), "device": format!("tg-{number}")}))
        .collect();
    let tasks = json!({"taskgate": "v1", "tasks": tasks}).to_string();
    fs::write(folder.join("tasks.yaml"), &tasks)?;
    Ok(bytes + tasks.len() as u64)
}

/// Writes `{"KEY": [items]}` with the AWS CLI's indents, an item at a time.
fn print(path: &Path, key: &str, items: impl Iterator<Item = Value>) -> Result<u64> {
    let mut file = BufWriter::new(fs::File::create(path)?);
    write!(file, "{{\n    \"{key}\": [")?;
    for (at, item) in items.enumerate() {
        let mut text = Vec::new();
        item.serialize(&mut Serializer::with_formatter(
            &mut text,
            PrettyFormatter::with_indent(b"    "),
        ))?;
        file.write_all(if at == 0 { b"\n        " } else { b",\n        " })?;
        file.write_all(String::from_utf8(text)?.replace('\n', "\n        ").as_bytes())?;
    }
    file.write_all(b"\n    ]\n}\n")?;
    file.flush()?;
    Ok(fs::metadata(path)?.len())
}

fn id(kind: &str, number: usize) -> String {
    format!("{kind}-{:017x}", number as u64 * 0x1_0000_0001_000f + 0xabc)
}

/// A group: a permission for each port, with up to four peers, one of each kind and another.
fn group(number: usize, effort: ReadingEffort) -> Value {
    const PEERS: usize = 4;
    let rules = effort.rules - 1;
    let permission = |first: usize| {
        let (mut v4, mut v6, mut groups) = (vec![], vec![], vec![]);
        for at in first..(first + PEERS).min(rules) {
            let peer = number * effort.rules + at;
            match at % PEERS {
                0 | 1 => v4.push(json!({
                    "CidrIp": format!("10.{}.{}.0/24", peer / 256 % 256, peer % 256),
                    "Description": format!("office {peer}"),
                })),
                2 => v6.push(json!({"CidrIpv6": format!("2001:db8:{:x}::/64", peer % 65_536)})),
                _ => groups.push(json!({"GroupId": id("sg", peer % effort.groups), "UserId": "123456789012"})),
            }
        }
        let port = 1_000 + first;
        json!({
            "IpProtocol": "tcp", "FromPort": port, "ToPort": port,
            "IpRanges": v4, "Ipv6Ranges": v6, "PrefixListIds": [], "UserIdGroupPairs": groups,
        })
    };
    let out = json!({
        "IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}],
        "Ipv6Ranges": [], "PrefixListIds": [], "UserIdGroupPairs": [],
    });
    let group = id("sg", number);
    json!({
        "GroupId": group, "GroupName": format!("service-{number}"), "Description": format!("made for service {number}"),
        "OwnerId": "123456789012", "VpcId": id("vpc", 1),
        "SecurityGroupArn": format!("arn:aws:ec2:eu-central-1:123456789012:security-group/{group}"),
        "Tags": [{"Key": "Name", "Value": format!("service-{number}")}],
        "IpPermissions": (0..rules).step_by(PEERS).map(permission).collect::<Vec<_>>(),
        "IpPermissionsEgress": [out],
    })
}

/// An interface with two groups and three addresses.
fn eni(number: usize, effort: ReadingEffort) -> Value {
    let (high, low) = (number / 250, number % 250 + 1);
    let groups = [number, number * 7 + 1].map(|group| {
        let group = group % effort.groups;
        json!({"GroupName": format!("service-{group}"), "GroupId": id("sg", group)})
    });
    let address = |net: u8, primary: bool| {
        let dashed = format!("ip-10-{net}-{high}-{low}.eu-central-1.compute.internal");
        json!({"Primary": primary, "PrivateDnsName": dashed, "PrivateIpAddress": format!("10.{net}.{high}.{low}")})
    };
    json!({
        "AvailabilityZone": "eu-central-1a",
        "Description": format!("arn:aws:ecs:eu-central-1:123456789012:attachment/{number:032x}"),
        "Groups": groups,
        "InterfaceType": "branch",
        "Ipv6Addresses": [{"Ipv6Address": format!("2001:db8:1:{high:x}::{low:x}"), "IsPrimaryIpv6": false}],
        "MacAddress": format!("0a:00:00:{:02x}:{:02x}:{:02x}", number >> 16, number >> 8 & 255, number & 255),
        "NetworkInterfaceId": id("eni", number),
        "OwnerId": "123456789012",
        "PrivateDnsName": format!("ip-10-1-{high}-{low}.eu-central-1.compute.internal"),
        "PrivateIpAddress": format!("10.1.{high}.{low}"),
        "PrivateIpAddresses": [address(1, true), address(2, false)],
        "RequesterId": "AIDAEXAMPLEEXAMPLE", "RequesterManaged": false, "SourceDestCheck": true, "Status": "in-use",
        "SubnetId": id("subnet", number % 3), "VpcId": id("vpc", 1),
        "TagSet": [{"Key": "Name", "Value": format!("task {number}")}],
    })
}
