//! Recognition of a file: output of the AWS CLI (one response, a list of pages or a bare list of objects), the native form,
//! or another format, which is reported with the remedy.

use super::aws;
use super::content::{Content, Top};
use super::json;
use super::native;
use super::node::{Node, Value};
use super::object::{Object, all};
use super::problem::{Diagnostics, Location};
use super::raw::Collected;
use super::recognise;

/// The key that the AWS CLI adds to a truncated list.
const CUT: &str = "NextToken";

/// Reads a JSON file.
pub(super) fn read_json(outline: &json::Outline<'_>, collected: &mut Collected, report: &mut Diagnostics) {
    let Some(parts) = &outline.parts else {
        if outline.root.is_list() {
            return read_list(Content::Text(outline.root), collected, report);
        }
        return read_tree(&outline.root.node(report), collected, report);
    };
    let native = parts.iter().any(|(key, _, _)| key == native::HEADER);
    let twice = parts
        .iter()
        .enumerate()
        .any(|(at, (key, _, _))| parts[..at].iter().any(|(earlier, _, _)| earlier == key));
    if native || twice {
        return read_tree(&outline.root.node(report), collected, report);
    }
    let entries = parts.iter();
    let top = Top {
        location: outline.root.location(),
        entries: entries
            .map(|(key, location, value)| (&**key, *location, Content::Text(*value)))
            .collect(),
    };
    cut(&top, report);
    read_top(&top, collected, report);
}

/// Reads a file that was parsed to a tree.
pub(super) fn read_tree(root: &Node<'_>, collected: &mut Collected, report: &mut Diagnostics) {
    if let Some(top) = Top::of(root) {
        cut(&top, report);
        if top.has(native::HEADER) {
            read_native(root, &top, collected, report);
        } else {
            read_top(&top, collected, report);
        }
    } else if matches!(root.value, Value::List(_)) {
        read_list(Content::Tree(root), collected, report);
    } else {
        let (message, hint) = recognise::value(root);
        report.error(root.location, message, hint);
        report.objects_lost = true;
    }
}

/// Refuses a truncated list.
fn cut(top: &Top<'_, '_>, report: &mut Diagnostics) {
    if let Some(location) = token(top, report) {
        cut_at(location, report);
    }
}

fn cut_at(token: Location, report: &mut Diagnostics) {
    let hint = "print it again without `--max-items` and `--no-paginate`";
    report.error(token, format!("the list is cut: there is a `{CUT}`"), hint);
    report.objects_lost = true;
    report.rules_lost = true;
}

/// The place of a pagination token.
fn token(top: &Top<'_, '_>, report: &mut Diagnostics) -> Option<Location> {
    let (location, content) = top.get(CUT)?;
    match &content.node(report).value {
        Value::Null => None,
        Value::Scalar(token) if token.is_empty() => None,
        _ => Some(location),
    }
}

/// Reads every known key of an object. `true` if there is one.
fn read_known(top: &Top<'_, '_>, collected: &mut Collected, report: &mut Diagnostics) -> bool {
    let mut known = false;
    for key in aws::keys() {
        if let Some((_, content)) = top.get(key) {
            known = true;
            if !content.is_null() {
                aws::read(key, content, collected, report);
            }
        }
    }
    known
}

/// Reads ECS tasks. `true` if the object has them.
fn read_ecs_tasks(top: &Top<'_, '_>, collected: &mut Collected, report: &mut Diagnostics) -> bool {
    if !recognise::has_ecs_tasks(top, report) {
        return false;
    }
    if let Some((_, content)) = top.get("tasks").filter(|(_, content)| !content.is_null()) {
        aws::read_ecs_tasks(content, collected, report);
    }
    true
}

fn read_top(top: &Top<'_, '_>, collected: &mut Collected, report: &mut Diagnostics) {
    let known = read_known(top, collected, report);
    let ecs = read_ecs_tasks(top, collected, report);
    let passed_over = recognise::passed_over(top, report);
    if !known && !ecs && !passed_over {
        let (location, message, hint) = recognise::object(top);
        report.error(location, message, hint);
        report.objects_lost = true;
    }
}

fn read_native(root: &Node<'_>, top: &Top<'_, '_>, collected: &mut Collected, report: &mut Diagnostics) {
    read_known(top, collected, report);
    let known = |key: &str| aws::keys().any(|aws| aws == key) || native::KEYS.contains(&key);
    for (key, location) in top.keys() {
        if !known(key) && key != native::HEADER && key != CUT {
            let hint = format!(
                "its keys are {}, and those of the AWS CLI",
                all(native::KEYS.into_iter())
            );
            report.error(location, format!("the native form has no key `{key}`"), hint);
        }
    }
    if let Some(file) = Object::of(root, "the file", report) {
        native::read(&file, collected, report);
    }
}

/// Reads a list of pages, as from `--output yaml-stream`, or of objects, as from `--query 'SecurityGroups[]'`.
fn read_list(list: Content<'_, '_>, collected: &mut Collected, report: &mut Diagnostics) {
    let mut count = 0_usize;
    let mut unknown = 0_usize;
    // Every page but the last one has a token.
    let mut token_of_last = None;
    let mut entries = None;
    list.for_each("the file", report, |item, report| {
        count += 1;
        token_of_last = None;
        if let Some(top) = Top::of(item).filter(|top| aws::keys().any(|key| top.has(key))) {
            token_of_last = token(&top, report);
            read_known(&top, collected, report);
        } else if let Some(page) = Top::of(item).filter(|page| recognise::has_ecs_tasks(page, report)) {
            read_ecs_tasks(&page, collected, report);
        } else if recognise::is_ecs_task(item) {
            aws::read_ecs_task(item, collected, report);
        } else if !aws::read_bare(item, &mut entries, collected, report) {
            unknown += 1;
            // One message is enough.
            if unknown == 1 {
                let (message, hint) = recognise::item(item);
                report.error(item.location, message, hint);
                report.objects_lost = true;
                report.rules_lost = true;
            }
        }
    });
    if let Some(location) = token_of_last {
        cut_at(location, report);
    }
    if let Some(entries) = entries {
        collected.prefix_lists.push(entries.finish());
    }
    if count == 0 {
        let hint = "it may stay, or be taken away";
        report.warn(list.location(), "the list is empty, so the file says nothing", hint);
    }
}
