//! The list of what an instance has made and not taken away yet: a folder in /run with a file for each link and each
//! namespace. A link or a namespace can claim anything; only the list says whose it is.
//!
//! A thing is listed before it is made, so that a run that is killed leaves nothing unlisted, and is looked at again before
//! it is taken away. A file is replaced as a whole: a reader meets the old one or the new one. It need not outlive a reboot,
//! which takes away everything that it could list.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Read as _, Write as _},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use super::{EniSpec, alias, delete, routes::Mac};
use crate::{
    link,
    netlink::{Netlink, NetlinkError},
    netns::{Namespace, NamespaceId},
};

/// Where running instances keep their state. It is root's alone.
pub const STATE_FOLDER: &str = "/run/taskgate";

/// The list of one instance.
#[derive(Clone, Debug)]
pub(super) struct Provisioned {
    folder: PathBuf,
    /// This boot: numbers of links and namespaces mean nothing in another one.
    boot: String,
}

/// The host's end of a veth pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct LinkRecord {
    boot: String,
    /// The name that it was made with.
    pub(super) link: String,
    /// The network namespace that it lies in.
    netns: NamespaceId,
    /// Its number there, once it has one.
    pub(super) ifindex: Option<u32>,
    /// The address that it was made with.
    mac: Mac,
    /// The alias that it gets once it is made.
    alias: String,
    /// The ENI that it is the host's end of, once that is complete.
    #[serde(default)]
    pub(super) complete: Option<Complete>,
}

/// A complete ENI: what it takes to know it again, and to give it other addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Complete {
    /// The network namespace of the task.
    pub(super) task: NamespaceId,
    /// Every address that it has been given and not lost: while they change, the old and the new ones.
    pub(super) addresses: Vec<IpAddr>,
    /// Its addresses are being changed: some may be missing, or there in part.
    pub(super) changing: bool,
}

/// A named network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct NamespaceRecord {
    boot: String,
    pub(super) namespace: String,
    netns: NamespaceId,
}

/// An entry of the list, or the reason why a part of it cannot be used.
#[derive(Debug, Default)]
pub(super) struct Listed {
    pub(super) links: Vec<LinkRecord>,
    pub(super) namespaces: Vec<NamespaceRecord>,
    pub(super) damaged: Vec<(PathBuf, io::Error)>,
}

/// The subject of a file of the list, by which the file is named.
pub(super) trait Record: Serialize + DeserializeOwned {
    const PREFIX: &str;

    fn name(&self) -> &str;

    fn boot(&self) -> &str;
}

impl Record for LinkRecord {
    const PREFIX: &str = "link-";

    fn name(&self) -> &str {
        &self.link
    }

    fn boot(&self) -> &str {
        &self.boot
    }
}

impl Record for NamespaceRecord {
    const PREFIX: &str = "namespace-";

    fn name(&self) -> &str {
        &self.namespace
    }

    fn boot(&self) -> &str {
        &self.boot
    }
}

impl LinkRecord {
    /// Whether a link of the network namespace `here` is the one. Only this host's administrator can give it these
    /// properties: the task has the other end.
    pub(super) fn is_of(&self, here: NamespaceId, message: &LinkMessage) -> bool {
        let is_veth = message.attributes.iter().any(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Veth)),
            _ => false,
        });
        let [has_mac, has_name] = self.likeness(message);
        let as_made = has_mac && has_name;
        let is_place = self.netns == here && self.ifindex.is_none_or(|ifindex| ifindex == message.header.index);
        is_veth
            && is_place
            && match alias(message) {
                Some(alias) => alias == self.alias && (as_made || self.ifindex.is_some()),
                // Killed before it got its alias.
                None => as_made,
            }
    }

    /// Whether a link has the Ethernet address that it was made with.
    pub(super) fn has_mac(&self, message: &LinkMessage) -> bool {
        message.attributes.contains(&LinkAttribute::Address(self.mac.to_vec()))
    }

    /// Whether a link has the address and the name that it was made with.
    fn likeness(&self, message: &LinkMessage) -> [bool; 2] {
        [self.has_mac(message), link::name(message) == Some(&self.link)]
    }

    /// Whether it lies in a network namespace.
    pub(super) fn is_in(&self, netns: NamespaceId) -> bool {
        self.netns == netns
    }

    /// The link with its number, or with its name while it has no number.
    pub(super) async fn look(&self, netlink: &Netlink) -> Result<Option<LinkMessage>, NetlinkError> {
        match self.ifindex {
            Some(ifindex) => netlink.link_message_of(ifindex, &self.link).await,
            None => netlink.link_message(&self.link).await,
        }
    }
}

impl NamespaceRecord {
    /// Whether a namespace is the one, to which its name leads.
    pub(super) fn is_of(&self, id: NamespaceId) -> bool {
        self.netns == id
    }
}

impl Provisioned {
    pub(super) fn of(instance: &str) -> Result<Self, NetlinkError> {
        Ok(Self {
            folder: Path::new(STATE_FOLDER).join(format!("{instance}.provisioned")),
            boot: crate::boot_id().map_err(NetlinkError::of("read", crate::BOOT_ID))?,
        })
    }

    /// Lists the host's end of an ENI that is about to be made in the calling thread's network namespace.
    pub(super) fn announce_link(&self, spec: &EniSpec<'_>) -> Result<LinkRecord, NetlinkError> {
        let [mac, _] = spec.macs();
        let record = LinkRecord {
            boot: self.boot.clone(),
            link: spec.link_name(),
            netns: NamespaceId::here()?,
            ifindex: None,
            mac,
            alias: spec.alias(),
            complete: None,
        };
        self.put(&record)?;
        Ok(record)
    }

    /// Lists a namespace that is about to get its name.
    pub(super) fn announce_namespace(&self, namespace: &Namespace) -> Result<(), NetlinkError> {
        self.put(&NamespaceRecord {
            boot: self.boot.clone(),
            namespace: namespace.name().to_owned(),
            netns: namespace.id()?,
        })
    }

    /// Writes a record, in place of the one that may be there under its name.
    pub(super) fn put<R: Record>(&self, record: &R) -> Result<(), NetlinkError> {
        let path = self.path::<R>(record.name());
        let write = || -> io::Result<()> {
            let mut folders = DirBuilder::new();
            folders.recursive(true).mode(0o700).create(&self.folder)?;
            check_owner(&fs::symlink_metadata(&self.folder)?, "folder")?;
            let next = self.folder.join(NEXT);
            let mut text = serde_json::to_vec(record)?;
            text.push(b'\n');
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true);
            let mut file = options.mode(0o600).custom_flags(libc::O_NOFOLLOW).open(&next)?;
            file.write_all(&text)?;
            fs::rename(&next, &path)
        };
        write().map_err(NetlinkError::of("write", path.display().to_string()))
    }

    /// The record under a name; `None` if there is none, or one that says nothing of this boot.
    pub(super) fn get<R: Record>(&self, name: &str) -> Option<R> {
        let record: R = read(&self.path::<R>(name)).ok()?;
        (record.name() == name && record.boot() == self.boot).then_some(record)
    }

    /// Takes a record out of the list. A file that cannot be removed is listed for too long, which harms nobody.
    pub(super) fn forget<R: Record>(&self, name: &str) {
        let path = self.path::<R>(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!("cannot remove `{}`: {error}", path.display());
            }
            _ => {}
        }
        // The folder goes with the last one; until then it is not empty.
        fs::remove_dir(&self.folder).ok();
    }

    /// Reads the list. Entries of an earlier boot are removed.
    pub(super) fn read(&self) -> Listed {
        let mut listed = Listed::default();
        let names = || -> io::Result<Vec<String>> {
            let entries = match fs::symlink_metadata(&self.folder) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
                folder => check_owner(&folder?, "folder").and_then(|()| fs::read_dir(&self.folder))?,
            };
            entries
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect()
        };
        let mut names = names().unwrap_or_else(|error| {
            listed.damaged.push((self.folder.clone(), error));
            Vec::new()
        });
        names.sort();
        for name in names {
            if name == NEXT {
                // Killed while writing it: the thing to be listed was not begun.
                fs::remove_file(self.folder.join(NEXT)).ok();
            } else if name.starts_with(LinkRecord::PREFIX) {
                let record = self.listed(&name, &mut listed.damaged);
                listed.links.extend(record);
            } else if name.starts_with(NamespaceRecord::PREFIX) {
                let record = self.listed(&name, &mut listed.damaged);
                listed.namespaces.extend(record);
            } else {
                let foreign = io::Error::new(ErrorKind::InvalidData, "a file of the list has no such name");
                listed.damaged.push((self.folder.join(name), foreign));
            }
        }
        listed
    }

    fn listed<R: Record>(&self, file: &str, damaged: &mut Vec<(PathBuf, io::Error)>) -> Option<R> {
        let path = self.folder.join(file);
        let record = read::<R>(&path).and_then(|record| {
            if self.path::<R>(record.name()) == path {
                return Ok(record);
            }
            let why = format!("it names `{}`, which has another file", record.name());
            Err(io::Error::new(ErrorKind::InvalidData, why))
        });
        match record {
            Ok(record) if record.boot() == self.boot => Some(record),
            Ok(record) => {
                self.forget::<R>(record.name());
                None
            }
            Err(error) => {
                damaged.push((path, error));
                None
            }
        }
    }

    /// Takes a link away, if it is still the one that was made, and out of the list.
    pub(super) async fn remove_link(&self, netlink: &Netlink, record: &LinkRecord) -> Result<Removed, NetlinkError> {
        let removed = match record.look(netlink).await? {
            Some(message) if record.is_of(NamespaceId::here()?, &message) => {
                delete(netlink, message.header.index, &record.link).await?;
                Removed::Now
            }
            // It may be the one, under another alias, or somebody else's: it stays in the list, too.
            Some(message) if record.likeness(&message).contains(&true) => return Ok(Removed::Changed),
            _ => Removed::WasGone,
        };
        self.forget::<LinkRecord>(&record.link);
        Ok(removed)
    }

    /// Takes a namespace's name away, if it still leads there, and out of the list.
    pub(super) fn remove_namespace(&self, namespace: Namespace) -> Result<(), NetlinkError> {
        let name = namespace.name().to_owned();
        namespace.remove()?;
        self.forget::<NamespaceRecord>(&name);
        Ok(())
    }

    fn path<R: Record>(&self, name: &str) -> PathBuf {
        // A namespace's name may be as long as a file's.
        let mut number = [0; 8];
        number.copy_from_slice(&Sha256::digest(name)[..8]);
        self.folder
            .join(format!("{}{:016x}", R::PREFIX, u64::from_be_bytes(number)))
    }
}

/// Whether there was something to take away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removed {
    Now,
    /// It is gone, or something else has its number or name.
    WasGone,
    /// The link that is there resembles it, but not wholly: it stays.
    Changed,
}

/// A file that is being written.
const NEXT: &str = "next";

/// Reads a record that only this host's administrator can have written.
fn read<R: Record>(path: &Path) -> io::Result<R> {
    /// A record is a few hundred bytes.
    const MOST: u64 = 65_536;
    let mut options = OpenOptions::new();
    // A FIFO would let us wait.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file: File = options.read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidData, "it is no regular file"));
    }
    check_owner(&metadata, "file")?;
    let mut text = Vec::new();
    file.take(MOST).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// A file that others can write is not taken for a list.
fn check_owner(metadata: &fs::Metadata, what: &str) -> io::Result<()> {
    let own = nix::unistd::geteuid().as_raw();
    if metadata.file_type().is_symlink() || metadata.uid() != own || metadata.mode() & 0o022 != 0 {
        let why = format!("the {what} has to be user {own}'s, with nobody else allowed to write");
        return Err(io::Error::new(ErrorKind::PermissionDenied, why));
    }
    Ok(())
}
