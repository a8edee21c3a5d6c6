//! The kernel modules that tests need, in load order.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::kernels::Image;

/// Modules for gates, and for test set-ups: kinds of links, a host's firewall, authentication headers.
const WANTED: [&str; 13] = [
    "veth",
    "sch_ingress",
    "cls_bpf",
    "8021q",
    "bridge",
    "dummy",
    "tun",
    "macvlan",
    "vxlan",
    "nf_tables",
    "xfrm_user",
    "ah4",
    "ah6",
];

/// A kernel's modules.
pub(super) struct Modules {
    /// Names and contents, each module after its dependencies.
    pub(super) ordered: Vec<(String, Vec<u8>)>,
    /// Modules that this kernel does not have.
    pub(super) lacking: Vec<&'static str>,
}

/// Reads the modules of an unpacked kernel.
pub(super) fn of(image: &Image) -> Result<Modules> {
    let mut files = BTreeMap::new();
    collect(&image.modules, &mut files)?;
    // Some packages do not list built-in modules.
    let builtin = fs::read_to_string(image.modules.join("modules.builtin")).unwrap_or_default();
    let builtin: Vec<_> = builtin.lines().map(|line| module_name(Path::new(line))).collect();

    let mut modules = Modules {
        ordered: Vec::new(),
        lacking: Vec::new(),
    };
    for name in WANTED {
        if files.contains_key(name) {
            add(name, &files, &mut modules.ordered)?;
        } else if !builtin.iter().any(|known| known == name) {
            modules.lacking.push(name);
        }
    }
    Ok(modules)
}

/// Adds a module after its dependencies. A module without a file is built in, or the guest says that it is missing.
fn add(name: &str, files: &BTreeMap<String, PathBuf>, ordered: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    let Some(file) = files.get(name) else {
        return Ok(());
    };
    if ordered.iter().any(|(known, _)| known == name) {
        return Ok(());
    }
    let content = content(file)?;
    for needed in depends(&content) {
        add(&needed, files, ordered)?;
    }
    ordered.push((name.to_owned(), content));
    Ok(())
}

fn collect(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read `{}`", folder.display()))? {
        let path = entry.context("a folder cannot be read")?.path();
        if path.is_dir() && !path.is_symlink() {
            collect(&path, files)?;
        } else if path.to_string_lossy().contains(".ko") {
            files.insert(module_name(&path), path);
        }
    }
    Ok(())
}

/// A module's name, from its file name.
fn module_name(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let name = name.split_once(".ko").map_or(&*name, |(name, _)| name);
    name.replace('-', "_")
}

/// A module's uncompressed contents: some kernels cannot decompress modules.
fn content(file: &Path) -> Result<Vec<u8>> {
    let program = match file.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => return fs::read(file).with_context(|| format!("cannot read `{}`", file.display())),
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => bail!("`{}` is packed in a way that is not known here", file.display()),
    };
    let output = Command::new(program).arg("-dc").arg(file).output();
    let output = output.with_context(|| format!("cannot run `{program}`: install it to unpack modules"))?;
    ensure!(
        output.status.success(),
        "`{program} -dc {}` failed with {}",
        file.display(),
        output.status
    );
    Ok(output.stdout)
}

/// A module's dependencies.
fn depends(module: &[u8]) -> Vec<String> {
    const FIELD: &[u8] = b"\0depends=";
    let Some(at) = module.windows(FIELD.len()).position(|bytes| bytes == FIELD) else {
        return Vec::new();
    };
    let rest = &module[at + FIELD.len()..];
    let end = rest.iter().position(|&byte| byte == 0).unwrap_or(rest.len());
    String::from_utf8_lossy(&rest[..end])
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_needs_stands_in_it() {
        let module = b"\x7fELF..\0license=GPL\0depends=garp,mrp-x\0retpoline=Y\0";
        assert_eq!(depends(module), ["garp", "mrp_x"]);
        assert_eq!(depends(b"\0depends=\0name=veth\0"), [""; 0]);
        assert_eq!(depends(b"nothing"), [""; 0]);
        assert_eq!(
            module_name(Path::new("kernel/net/sched/sch-ingress.ko.xz")),
            "sch_ingress"
        );
    }
}
