//! The list of links and namespaces that an instance has made and not removed yet: a folder in /run with a file for each. Names and
//! properties of a link or a namespace can be forged; only the list proves that this instance made it.
//!
//! An object is listed before it is made, so that a killed run leaves nothing unlisted, and is checked again before
//! it is removed. A file is replaced atomically: a reader sees the old one or the new one. The list need not outlive a reboot,
//! which removes everything that it could name.

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

/// The folder of running instances' state. Only root has access.
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
    /// The link's original name.
    pub(super) link: String,
    /// The link's network namespace.
    netns: NamespaceId,
    /// The link's ifindex there, once it has one.
    pub(super) ifindex: Option<u32>,
    /// The link's original Ethernet address.
    mac: Mac,
    /// The alias that the link gets once it is made.
    alias: String,
    /// The ENI whose host end the link is, once the ENI is complete.
    #[serde(default)]
    pub(super) complete: Option<Complete>,
}

/// The facts of a complete ENI that are needed to recognise it and to change its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Complete {
    /// The network namespace of the task.
    pub(super) task: NamespaceId,
    /// Every address that the ENI may have: during a change, the old and the new ones.
    pub(super) addresses: Vec<IpAddr>,
    /// A change of addresses is in progress: some may be missing, or set at one end only.
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

/// The contents of a file of the list, whose name is derived from the record's.
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
    /// Whether a link of the network namespace `here` is the listed one. Only this host's administrator can set these
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
                // The run was killed before it set the alias.
                None => as_made,
            }
    }

    /// Whether a link has the listed Ethernet address.
    pub(super) fn has_mac(&self, message: &LinkMessage) -> bool {
        message.attributes.contains(&LinkAttribute::Address(self.mac.to_vec()))
    }

    /// Whether a link has the listed address, and whether it has the listed name.
    fn likeness(&self, message: &LinkMessage) -> [bool; 2] {
        [self.has_mac(message), link::name(message) == Some(&self.link)]
    }

    /// Whether the link was made in a network namespace.
    pub(super) fn is_in(&self, netns: NamespaceId) -> bool {
        self.netns == netns
    }

    /// Looks up the link by ifindex, or by name while none is listed.
    pub(super) async fn look(&self, netlink: &Netlink) -> Result<Option<LinkMessage>, NetlinkError> {
        match self.ifindex {
            Some(ifindex) => netlink.link_message_of(ifindex, &self.link).await,
            None => netlink.link_message(&self.link).await,
        }
    }
}

impl NamespaceRecord {
    /// Whether a namespace is the listed one.
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

    /// Lists the host's end of an ENI before it is made in the calling thread's network namespace.
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

    /// Lists a namespace before it gets its name.
    pub(super) fn announce_namespace(&self, namespace: &Namespace) -> Result<(), NetlinkError> {
        self.put(&NamespaceRecord {
            boot: self.boot.clone(),
            namespace: namespace.name().to_owned(),
            netns: namespace.id()?,
        })
    }

    /// Writes a record, replacing an existing one of the same name.
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

    /// The record under a name; `None` if there is none, or if it is of another boot.
    pub(super) fn get<R: Record>(&self, name: &str) -> Option<R> {
        let record: R = read(&self.path::<R>(name)).ok()?;
        (record.name() == name && record.boot() == self.boot).then_some(record)
    }

    /// Removes a record from the list. If its file cannot be removed, the entry only stays too long, which is harmless.
    pub(super) fn forget<R: Record>(&self, name: &str) {
        let path = self.path::<R>(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!("cannot remove `{}`: {error}", path.display());
            }
            _ => {}
        }
        // Removes the folder after the last record; until then it is not empty.
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
                // The run was killed while writing it, before it made the object.
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

    /// Removes a link, if it is still the listed one, and its record.
    pub(super) async fn remove_link(&self, netlink: &Netlink, record: &LinkRecord) -> Result<Removed, NetlinkError> {
        let removed = match record.look(netlink).await? {
            Some(message) if record.is_of(NamespaceId::here()?, &message) => {
                delete(netlink, message.header.index, &record.link).await?;
                Removed::Now
            }
            // It may be the listed link under another alias, or a foreign link: link and record stay.
            Some(message) if record.likeness(&message).contains(&true) => return Ok(Removed::Changed),
            _ => Removed::WasGone,
        };
        self.forget::<LinkRecord>(&record.link);
        Ok(removed)
    }

    /// Removes a namespace's name, if it still leads there, and its record.
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

/// The result of a removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removed {
    Now,
    /// The link was gone already; another link may have its ifindex.
    WasGone,
    /// The link that was found has only some of the listed properties, and stays.
    Changed,
}

/// A file that is being written.
const NEXT: &str = "next";

/// Reads a record, after checking that only this host's administrator can have written it.
fn read<R: Record>(path: &Path) -> io::Result<R> {
    /// A record is a few hundred bytes.
    const MOST: u64 = 65_536;
    let mut options = OpenOptions::new();
    // Opening a FIFO would block.
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

/// Refuses a file of another owner, one that others can write to, and a symbolic link.
fn check_owner(metadata: &fs::Metadata, what: &str) -> io::Result<()> {
    let own = nix::unistd::geteuid().as_raw();
    if metadata.file_type().is_symlink() || metadata.uid() != own || metadata.mode() & 0o022 != 0 {
        let why = format!("the {what} has to be user {own}'s, with nobody else allowed to write");
        return Err(io::Error::new(ErrorKind::PermissionDenied, why));
    }
    Ok(())
}
