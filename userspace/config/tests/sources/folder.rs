//! Selection of the files in a folder.

use std::fs;
use std::path::PathBuf;

use taskgate_config::load;

/// A temporary folder for one test.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(test: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("sources-{test}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a new folder");
        Self(path)
    }

    pub(crate) fn file(&self, name: &str, bytes: &[u8]) {
        fs::write(self.0.join(name), bytes).expect("a file");
    }

    /// The messages, without the folder's name.
    pub(crate) fn told(&self) -> String {
        let folder = self.0.display().to_string();
        match load(&self.0) {
            Ok(loaded) => {
                let names: Vec<&str> = loaded.model.groups.iter().map(|group| group.name.as_str()).collect();
                format!("groups {}", names.join(" "))
            }
            Err(problems) => problems.to_string().replace(&folder, "DIR"),
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A native file with one group.
fn group(name: &str) -> Vec<u8> {
    format!("taskgate: v1\ngroups: [{{name: {name}}}]\n").into_bytes()
}

#[test]
fn files_are_read_in_the_order_of_their_names_and_others_are_left_alone() {
    let folder = Folder::new("order");
    for (file, name) in [("b.yml", "second"), ("a.yaml", "first"), ("c.json", "third")] {
        folder.file(file, &group(name));
    }
    for other in [".d.yaml", "e.txt", "f.yaml.swp", "yaml"] {
        folder.file(other, b"not a configuration");
    }
    fs::create_dir(folder.0.join("deeper.yaml")).expect("a folder");
    std::os::unix::fs::symlink("a.yaml", folder.0.join("z.yaml")).expect("a link");
    assert_eq!(folder.told(), "groups first second third");
}

#[test]
fn a_folder_without_files_is_refused() {
    let folder = Folder::new("empty");
    let hint = "put AWS CLI output or a native file into it";
    assert_eq!(
        folder.told(),
        format!("DIR: the folder holds no `.json`, `.yaml` or `.yml` file; {hint}")
    );
}

#[test]
fn a_folder_that_is_not_there_is_refused() {
    let folder = Folder::new("gone");
    fs::remove_dir(&folder.0).expect("it is empty");
    assert_eq!(
        folder.told(),
        "DIR: the folder cannot be read: No such file or directory (os error 2); name another one with `--config`"
    );
}

#[test]
fn a_file_in_place_of_a_folder_is_refused() {
    let folder = Folder::new("file");
    folder.file("a.yaml", &group("a"));
    let file = folder.0.join("a.yaml");
    let told = load(&file).expect_err("no folder").to_string();
    assert_eq!(
        told.replace(&folder.0.display().to_string(), "DIR"),
        "DIR/a.yaml: this is a file, and a configuration is a folder; name the folder that the file is in, or one with \
         nothing else in it"
    );
}

/// A file name can contain characters that move a terminal's cursor, or begin a line that looks like another message.
#[test]
fn names_of_files_are_shown_without_what_steers_a_terminal() {
    let folder = Folder::new("names");
    folder.file("a\u{1b}[2J\nb.yaml", b"taskgate: v2\n");
    folder.file("c\u{7}.txt", b"x");
    folder.file("\u{202e}d.json", b"");
    let problems = load(&folder.0).expect_err("refused");
    let shown: Vec<String> = problems
        .errors
        .iter()
        .chain(&problems.warnings)
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        shown.join("\n").replace(&folder.0.display().to_string(), "DIR"),
        "DIR/a\\u{1b}[2J\\u{a}b.yaml:1:11: the native form `v2` is not known; write `taskgate: v1`\n\
         DIR/\\u{202e}d.json: the file is empty; put AWS CLI output or `taskgate: v1` into it, or take it away\n\
         DIR: not read, for the ends of their names: `c\\u{7}.txt`; name those that belong to the configuration `….json` \
         or `….yaml`"
    );
}

#[test]
fn what_cannot_be_read_is_refused_by_name() {
    let folder = Folder::new("unreadable");
    folder.file("a.yaml", b"taskgate: v1\naccount: \xff\n");
    std::os::unix::fs::symlink("nowhere", folder.0.join("b.yaml")).expect("a link");
    folder.file(
        "c.yaml",
        b"taskgate: v1\ngroups: [{name: web, ingress: [{protocol: all, from: group:db}]}]\n",
    );
    folder.file("d.yaml", b"taskgate: v1\nmembers: [{address: 1, groups: [web]}]\n");
    // The pipe has no writer: opening it would block forever.
    nix::unistd::mkfifo(&folder.0.join("e.yaml"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    assert_eq!(
        folder.told(),
        "DIR/a.yaml:2:10: what stands here is not UTF-8; save the file as UTF-8\n\
         DIR/b.yaml: the file cannot be read: No such file or directory (os error 2); make it readable, or take it away\n\
         DIR/d.yaml:2:21: `1` is no address; write one such as `10.0.1.15` or `2001:db8::15`, without a prefix length\n\
         DIR/e.yaml: the file cannot be read: it is a pipe, a socket or a device; make it readable, or take it away"
    );
}
