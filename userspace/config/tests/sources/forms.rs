//! Output of the AWS CLI and other tools in all forms: read, or refused with the form's name and the remedy.

use taskgate_config::{Loaded, load, read};
use taskgate_model::{GroupIndex, Peer};

use crate::folder::Folder;
use crate::support::{lines, refused};

fn read_one(name: &str, text: &str) -> Loaded {
    match read(&[(name, text)]) {
        Ok(loaded) => loaded,
        Err(problems) => panic!("{text}\n{problems}"),
    }
}

/// The number of items of each kind in a model.
fn counted(loaded: &Loaded) -> String {
    let model = &loaded.model;
    let entries = model.prefix_lists.iter().flat_map(|list| list.entries.iter().flatten());
    format!(
        "groups {} rules {} enis {} lists {} entries {} reserved {}",
        model.groups.len(),
        model
            .groups
            .iter()
            .map(|group| group.ingress.len() + group.egress.len())
            .sum::<usize>(),
        model.enis.len(),
        model.prefix_lists.len(),
        entries.count(),
        model.reserved.len(),
    )
}

pub(crate) const GROUP: &str =
    r#"{"GroupId": "sg-1", "GroupName": "web", "IpPermissions": [], "IpPermissionsEgress": [], "VpcId": "vpc-1"}"#;
pub(crate) const RULE: &str = r#"{"SecurityGroupRuleId": "sgr-1", "GroupId": "sg-1", "IsEgress": false, "IpProtocol": "-1", "CidrIpv4": "10.0.0.0/8"}"#;
const ENI: &str = r#"{"NetworkInterfaceId": "eni-1", "PrivateIpAddress": "10.0.0.1", "Groups": [{"GroupId": "sg-1", "GroupName": "web"}], "SubnetId": "subnet-1", "VpcId": "vpc-1"}"#;

#[test]
fn pages_and_bare_lists_are_read() {
    let yaml_stream = "- NextToken: abc\n  SecurityGroups:\n  - GroupId: sg-1\n    GroupName: web\n    IpPermissions: []\n    \
                       IpPermissionsEgress: []\n- SecurityGroups:\n  - GroupId: sg-2\n    GroupName: db\n    \
                       IpPermissions: []\n    IpPermissionsEgress: []\n";
    let mixed = format!(r#"[{{"SecurityGroups": [{GROUP}], "NextToken": "x"}}, {ENI}, {{"Vpcs": []}}]"#);
    let cases = [
        (
            "stream.yaml",
            yaml_stream.to_owned(),
            "groups 2 rules 0 enis 0 lists 0 entries 0 reserved 0",
        ),
        (
            "one.yaml",
            String::from("- SecurityGroups: []\n"),
            "groups 0 rules 0 enis 0 lists 0 entries 0 reserved 0",
        ),
        (
            "g.json",
            format!("[{GROUP}]"),
            "groups 1 rules 0 enis 0 lists 0 entries 0 reserved 0",
        ),
        (
            "r.json",
            format!("[{RULE}]"),
            "groups 1 rules 1 enis 0 lists 0 entries 0 reserved 0",
        ),
        (
            "e.json",
            format!("[{ENI}]"),
            "groups 1 rules 0 enis 1 lists 0 entries 0 reserved 0",
        ),
        ("m.json", mixed, "groups 1 rules 0 enis 1 lists 0 entries 0 reserved 0"),
        (
            "pl-1.json",
            String::from(
                r#"[{"Cidr": "10.0.0.0/8"}, {"Cidr": "10.0.0.0/8"}, {"Cidr": "10.1.0.0/16", "Description": "x"}]"#,
            ),
            "groups 0 rules 0 enis 0 lists 1 entries 2 reserved 0",
        ),
        (
            "pl.json",
            String::from(r#"[{"PrefixListId": "pl-1", "PrefixListName": "corp", "MaxEntries": 3}]"#),
            "groups 0 rules 0 enis 0 lists 1 entries 0 reserved 0",
        ),
        (
            "n.json",
            String::from(
                r#"[{"VpcId": "vpc-1", "CidrBlock": "10.0.0.0/16", "DhcpOptionsId": "d"},
                    {"SubnetId": "subnet-1", "VpcId": "vpc-1", "CidrBlock": "10.0.1.0/24"}]"#,
            ),
            "groups 0 rules 0 enis 0 lists 0 entries 0 reserved 2",
        ),
        (
            "bom.json",
            format!("\u{feff}{{\"SecurityGroups\": [{GROUP}]}}"),
            "groups 1 rules 0 enis 0 lists 0 entries 0 reserved 0",
        ),
        (
            "bom.yaml",
            String::from("\u{feff}SecurityGroups:\n"),
            "groups 0 rules 0 enis 0 lists 0 entries 0 reserved 0",
        ),
    ];
    for (name, text, expected) in cases {
        assert_eq!(counted(&read_one(name, &text)), expected, "{name}: {text}");
    }
}

#[test]
fn what_other_tools_write_for_nothing_is_nothing() {
    for text in [
        r#"{"SecurityGroups": null}"#,
        r#"{"SecurityGroups": null, "NextToken": null}"#,
        r#"{"SecurityGroups": [], "NextToken": ""}"#,
        r#"{"Entries": null}"#,
        r#"{"tasks": [], "failures": []}"#,
        r#"{"tasks": null, "failures": []}"#,
        "tasks: []\nfailures: []\n",
    ] {
        let loaded = read_one("x.json", text);
        assert_eq!(
            (counted(&loaded).as_str(), lines(&loaded.warnings).as_str()),
            ("groups 0 rules 0 enis 0 lists 0 entries 0 reserved 0", ""),
            "{text}"
        );
    }
    let full = r#"{"SecurityGroups": [{"GroupId": "sg-1", "GroupName": "web", "VpcId": "", "IpPermissions": [{
        "IpProtocol": "-1", "FromPort": null, "ToPort": "", "IpRanges": "", "Ipv6Ranges": null, "PrefixListIds": null,
        "UserIdGroupPairs": [{"GroupId": "sg-1", "PeeringStatus": "", "Description": null}]}], "IpPermissionsEgress": ""}],
     "SecurityGroupRules": [{"SecurityGroupRuleId": "sgr-1", "GroupId": "sg-1", "IsEgress": false, "IpProtocol": "-1",
        "FromPort": null, "CidrIpv4": "", "CidrIpv6": null, "PrefixListId": "", "Description": "",
        "ReferencedGroupInfo": {"GroupId": "sg-1", "VpcPeeringConnectionId": "", "PeeringStatus": null}}],
     "NetworkInterfaces": [{"NetworkInterfaceId": "eni-1", "PrivateIpAddress": "", "PrivateIpAddresses":
        [{"PrivateIpAddress": ""}, {"PrivateIpAddress": null}, {"PrivateIpAddress": "10.0.0.1"}], "Ipv6Addresses":
        [{"Ipv6Address": ""}], "Groups": [{"GroupId": "sg-1", "GroupName": ""}], "MacAddress": "", "OwnerId": "",
        "SourceDestCheck": null, "SubnetId": "", "VpcId": null}],
     "Vpcs": [{"VpcId": "vpc-1", "CidrBlock": "", "CidrBlockAssociationSet": null, "Ipv6CidrBlockAssociationSet":
        [{"Ipv6CidrBlock": "", "Ipv6CidrBlockState": null}]}],
     "PrefixLists": [{"PrefixListId": "pl-1", "PrefixListName": "", "MaxEntries": "", "Cidrs": ["", null, "10.0.0.0/8"]}]}"#;
    let loaded = read_one("x.json", full);
    assert_eq!(
        (counted(&loaded).as_str(), lines(&loaded.warnings).as_str()),
        ("groups 1 rules 1 enis 1 lists 1 entries 1 reserved 0", "")
    );
    let rule = &loaded.model.groups[0].ingress[0];
    assert_eq!((rule.id.as_str(), &rule.peer), ("sgr-1", &Peer::Group(GroupIndex(0))));
    assert_eq!(
        loaded.model.enis[0].addresses,
        ["10.0.0.1".parse::<std::net::IpAddr>().expect("an address")]
    );
}

#[test]
fn cidrs_of_prefix_lists_are_entries() {
    let lists = r#"{"PrefixLists": [{"Cidrs": ["52.95.0.0/16", "3.5.0.0/19"], "PrefixListId": "pl-1", "PrefixListName":
        "com.amazonaws.eu-central-1.s3"}, {"PrefixListId": "pl-2", "PrefixListName": "none"}]}"#;
    // The same lists from the other command, which prints no entries, and the entries again.
    let managed = r#"{"PrefixLists": [{"PrefixListId": "pl-1", "PrefixListName": "com.amazonaws.eu-central-1.s3"}]}"#;
    let entries = r#"{"Entries": [{"Cidr": "3.5.0.0/19"}, {"Cidr": "52.95.0.0/16"}]}"#;
    let loaded = read(&[("a.json", lists), ("b.json", managed), ("pl-1.json", entries)]).expect("they agree");
    let shown: Vec<_> = loaded
        .model
        .prefix_lists
        .iter()
        .map(|list| (list.id.as_str(), format!("{:?}", list.entries)))
        .collect();
    assert_eq!(
        shown,
        [
            ("pl-1", String::from("Some([52.95.0.0/16, 3.5.0.0/19])")),
            ("pl-2", String::from("None"))
        ]
    );
    refused(&[(
        "entries that differ",
        &[
            ("a.json", lists),
            ("pl-1.json", r#"{"Entries": [{"Cidr": "3.5.0.0/20"}]}"#),
        ],
        "pl-1.json:1:13: prefix list `pl-1` differs from the one at a.json:1:18; keep one of them",
    )]);
}

#[test]
fn what_a_file_seems_to_be_is_said() {
    let json = "print it again with `--output json`";
    let out = "take the file out of the folder";
    let two = format!("{{\"SecurityGroups\": [{GROUP}]}}\n{{\"SecurityGroups\": []}}\n");
    let cases = [
        (
            two.as_str(),
            String::from("f:2:1: a second document begins here; put each document into a file of its own"),
        ),
        (
            GROUP,
            String::from(
                "f:1:1: the file is a security group alone; write `{\"SecurityGroups\": [` before it and `]}` after it, or print it without `--query` or with `SecurityGroups[]`",
            ),
        ),
        (
            ENI,
            String::from(
                "f:1:1: the file is a network interface alone; write `{\"NetworkInterfaces\": [` before it and `]}` after it, or print it without `--query` or with `NetworkInterfaces[]`",
            ),
        ),
        (
            "SECURITYGROUPS\tfor web\tsg-1\tweb\nIPPERMISSIONS\t443\ttcp\t443\n",
            format!("f: the file is what the AWS CLI prints with `--output text`; {json}"),
        ),
        (
            "sg-1\tweb\nsg-2\tdb\n",
            format!("f: the file is what the AWS CLI prints with `--output text`; {json}"),
        ),
        (
            "--------------------\n|DescribeSecurityGroups|\n+------+\n",
            format!("f: the file is what the AWS CLI prints with `--output table`; {json}"),
        ),
        (
            "\nAn error occurred (UnauthorizedOperation) when calling the DescribeSecurityGroups operation: no.\n",
            String::from(
                "f: the file holds an error of the AWS CLI: `An error occurred (UnauthorizedOperation) when calling the DescribeSecurityGroup…`; mend that and print it again",
            ),
        ),
        (
            "<?xml version=\"1.0\"?>\n<a/>\n",
            String::from("f: the file is XML or HTML; print it with the AWS CLI and `--output json`"),
        ),
        (
            "resource \"aws_security_group\" \"web\" {\n  name = \"web\"\n}\n",
            String::from(
                "f: the file is in Terraform's language, which taskgate does not read; apply it and print the groups with `aws ec2 describe-security-groups`",
            ),
        ),
        (
            r#"{"version": 4, "terraform_version": "1.9.0", "serial": 1, "lineage": "x", "outputs": {}, "resources": []}"#,
            format!("f:1:59: reading a state file of Terraform or OpenTofu is not built yet; {out}"),
        ),
        (
            r#"{"terraform_version": "1.9.0", "planned_values": {}}"#,
            format!("f:1:2: reading the output of `terraform show -json` is not built yet; {out}"),
        ),
        (
            "AWSTemplateFormatVersion: '2010-09-09'\nResources:\n  Web:\n    Type: AWS::EC2::SecurityGroup\n    Properties: {VpcId: !Ref Vpc}\n",
            format!("f:2:1: reading a CloudFormation template is not built yet; {out}"),
        ),
        (
            "apiVersion: v1\nkind: Service\n",
            format!("f:2:1: the file is a Kubernetes manifest; {out}"),
        ),
        (
            r#"{"Reservations": []}"#,
            format!(
                "f:1:2: the file is the output of `aws ec2 describe-instances`, which taskgate does not read; {out}"
            ),
        ),
        (
            r#"[{"id": "sg-1", "name": "web"}]"#,
            String::from(
                "f:1:2: the object, with `id` and `name`, is nothing that taskgate knows; print it without `--query`, or whole objects: `--query 'SecurityGroups[]'`",
            ),
        ),
        (
            r#"[["sg-1", "web"], ["sg-2", "db"]]"#,
            String::from(
                "f:1:2: the file is a list in which a list stands; it should be an object, or a list of pages or objects: print it without `--query`, or whole objects: `--query 'SecurityGroups[]'`",
            ),
        ),
        (
            "\u{1b}[?1h\u{1b}=\r{\"SecurityGroups\": []}",
            String::from(
                "f: the file begins with what steers a terminal, as a pager or `script` writes it; print it again with `--no-cli-pager` and `> FILE`",
            ),
        ),
        (
            "bash: line 1: aws: command not found\n",
            String::from(
                "f: the file holds an error of the shell: `bash: line 1: aws: command not found`; install the AWS CLI and print it again",
            ),
        ),
        (
            "The config profile (prod) could not be found\n",
            String::from(
                "f: the file holds an error of the AWS CLI: `The config profile (prod) could not be found`; mend that and print it again",
            ),
        ),
        (
            "[{}]",
            String::from(
                "f:1:2: the object is empty; print it without `--query`, or whole objects: `--query 'SecurityGroups[]'`",
            ),
        ),
        (
            "[null, null]",
            String::from(
                "f:1:2: the file is a list of `null`, which the AWS CLI prints where `--query` asks for what is not there; print it without `--query`, or whole objects: `--query 'SecurityGroups[]'`",
            ),
        ),
        (
            r#"{"Error": {"Code": "UnauthorizedOperation", "Message": "no"}}"#,
            String::from("f:1:2: the file holds an error of AWS instead of an answer; mend that and print it again"),
        ),
        (
            r#"{"//": "x", "resource": {"aws_security_group": {"web": {"name": "web"}}}}"#,
            String::from(
                "f:1:2: the file is Terraform's language as JSON (`.tf.json`), which taskgate does not read; apply it and print the groups with `aws ec2 describe-security-groups`",
            ),
        ),
        (
            "version: '3'\nservices:\n  web: {image: nginx}\n",
            format!("f:2:1: the file is a Compose file of Docker; {out}"),
        ),
        (
            "\"sg-1\"",
            String::from("f:1:1: the file should be an object and is the single value `sg-1`; write keys and values"),
        ),
        // The last page has a pagination token.
        (
            "- SecurityGroups: []\n- SecurityGroups: []\n  NextToken: abc\n",
            String::from(
                "f:3:3: the list is cut: there is a `NextToken`; print it again without `--max-items` and `--no-paginate`",
            ),
        ),
        // An empty list is not ECS output: the file is native, and empty.
        (
            "tasks: []\ngroups: []\n",
            String::from(
                "f:1:1: `tasks` belongs to the native form, and `taskgate` is missing; write `taskgate: v1` at the top",
            ),
        ),
    ];
    let files: Vec<[(&str, &str); 1]> = cases.iter().map(|(text, _)| [("f", *text)]).collect();
    let cases: Vec<_> = cases
        .iter()
        .zip(&files)
        .map(|((text, told), file)| (*text, file.as_slice(), told.as_str()))
        .collect();
    refused(&cases);
    let empty = read_one("f", "[]");
    assert_eq!(
        lines(&empty.warnings),
        "f:1:1: the list is empty, so the file says nothing; it may stay, or be taken away"
    );
    let logs = read_one("f", r#"{"FlowLogs": [{"FlowLogId": "fl-1"}]}"#);
    assert_eq!(
        lines(&logs.warnings),
        "f:1:2: `FlowLogs`, the output of `aws ec2 describe-flow-logs`, is not read yet, so records go where the native \
         `flow-logs` says; it may stay: nothing else depends on it"
    );
}

#[test]
fn bytes_that_are_no_text_are_said_to_be_what_they_are() {
    let folder = Folder::new("bytes");
    let utf16 = |text: &str, big: bool| -> Vec<u8> {
        let bytes = |unit: u16| if big { unit.to_be_bytes() } else { unit.to_le_bytes() };
        text.encode_utf16().flat_map(bytes).collect()
    };
    folder.file("a.json", &utf16("\u{feff}{\"SecurityGroups\": []}", false));
    folder.file("b.json", &utf16("\u{feff}{}", true));
    folder.file("c.json", &utf16("{}", false));
    folder.file("d.json", b"\x1f\x8b\x08\x00");
    folder.file("e.json", b"PK\x03\x04");
    let utf32 = |text: &str, big: bool| -> Vec<u8> {
        let bytes = |unit: char| {
            if big {
                (unit as u32).to_be_bytes()
            } else {
                (unit as u32).to_le_bytes()
            }
        };
        text.chars().flat_map(bytes).collect()
    };
    folder.file("f.json", &utf32("\u{feff}{}", false));
    folder.file("g.json", &utf32("{}", true));
    let hint = "save it as UTF-8: `… | Out-File -Encoding utf8 FILE`";
    let utf16 = "the file is UTF-16, as `>` writes it in Windows PowerShell";
    let mut expected: Vec<String> = ["a", "b", "c"]
        .map(|name| format!("DIR/{name}.json: {utf16}; {hint}"))
        .into();
    for (name, kind) in [("d", "gzip"), ("e", "zip")] {
        expected.push(format!("DIR/{name}.json: the file is compressed ({kind}); unpack it"));
    }
    expected.extend(["f", "g"].map(|name| format!("DIR/{name}.json: the file is UTF-32; save it as UTF-8")));
    assert_eq!(folder.told(), expected.join("\n"));
}

#[test]
fn a_folder_in_which_nothing_is_read_is_told_apart() {
    let what = "DIR: the folder holds no `.json`, `.yaml` or `.yml` file";
    let name = "name files `….json` or `….yaml`";
    for (test, files, folders, expected) in [
        (
            "only-folders",
            &[][..],
            &["a", "b.yaml"][..],
            format!("{what}, only folders, which are not looked into: `a`, `b.yaml`; name one of them with `--config`"),
        ),
        (
            "ends",
            &["groups.JSON", "notes.txt"],
            &["a"],
            format!("{what}, but `groups.JSON`, `notes.txt`; {name}"),
        ),
        (
            "many",
            &["1", "2", "3", "4", "5"],
            &[],
            format!("{what}, but `1`, `2`, `3`, `4` and 1 more; {name}"),
        ),
        (
            "tfstate",
            &["terraform.tfstate"],
            &[],
            format!(
                "{what}: `terraform.tfstate` is a state file of Terraform, which is not read; print the groups with `aws ec2 describe-security-groups` into a `.json` file"
            ),
        ),
    ] {
        let folder = Folder::new(test);
        for file in files {
            folder.file(file, b"{}");
        }
        for inner in folders {
            std::fs::create_dir(folder.0.join(inner)).expect("a folder");
        }
        assert_eq!(folder.told(), expected);
    }
    let folder = Folder::new("near");
    folder.file("a.json", b"{\"SecurityGroups\": []}");
    folder.file("b.YAML", b"x");
    folder.file("c.jsonl", b"x");
    for name in ["README.md", "d.json~", "e.bak", "f.tf", "g.txt"] {
        folder.file(name, b"x");
    }
    let warnings = load(&folder.0).expect("warnings only").warnings;
    let name = folder.0.display().to_string();
    assert_eq!(
        lines(&warnings).replace(&name, "DIR"),
        "DIR: not read, for the ends of their names: `b.YAML`, `c.jsonl`, `d.json~`, `e.bak` and 2 more; name those that \
         belong to the configuration `….json` or `….yaml`"
    );
}
