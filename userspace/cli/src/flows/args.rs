//! The flags of `taskgate flows`.

use std::{path::PathBuf, time::SystemTime};

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, error::ErrorKind};
use jiff::{SignedDuration, Timestamp};
use taskgate_analysis::flows::{FilterKey, Term};
use taskgate_model::RecordFormat;

/// `taskgate flows`.
#[derive(Clone, Debug, Args)]
pub struct FlowsArgs {
    /// Stored records: a file, a folder with all that is below it, or `-` for standard input; plain or gzip
    #[arg(long, value_name = "PATH", required = true)]
    pub input: Vec<PathBuf>,
    /// The format of the records, where neither a header line nor the first record shows it: `default`, `json`, or fields as
    /// `${srcaddr} ${dstaddr}`
    #[arg(long, value_name = "FORMAT", value_parser = format)]
    pub format: Option<RecordFormat>,
    /// Only the last N that fit
    #[arg(long, value_name = "N")]
    pub last: Option<usize>,
    /// Only records that end at this time or later: RFC 3339, Unix seconds, or how long ago, as `10m`
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub since: Option<u64>,
    /// Only records that begin before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub until: Option<u64>,
    /// compact, table, json, vpc (AWS's default format), or fields as `${srcaddr} ${dstaddr}`
    #[arg(short, long, value_name = "FORM", default_value = "compact", value_parser = FlowsOutput::parse)]
    pub output: FlowsOutput,
    /// Which flows.
    #[command(flatten)]
    pub filters: Filters,
}

/// How flows are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlowsOutput {
    /// A line for people.
    Compact,
    /// Columns for people.
    Table,
    /// An object of JSON in each line.
    Json,
    /// A format of VPC Flow Logs.
    Words(RecordFormat),
}

impl FlowsOutput {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "compact" => Ok(Self::Compact),
            "table" => Ok(Self::Table),
            "json" => Ok(Self::Json),
            "vpc" => Ok(Self::Words(RecordFormat::Default)),
            text if text.contains('$') => format(text).map(Self::Words),
            _ => Err(String::from(
                "write compact, table, json, vpc, or fields as `${srcaddr} ${dstaddr}`",
            )),
        }
    }
}

fn format(text: &str) -> Result<RecordFormat, String> {
    RecordFormat::parse(text).map_err(|error| format!("{error}; {}", error.hint()))
}

/// Unix seconds.
fn time(text: &str) -> Result<u64, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(u64::try_from(time.as_second()).unwrap_or_default());
    }
    let ago = text.parse::<SignedDuration>().map_err(|_error| {
        String::from("write a time as 2026-06-10T12:00:00Z, Unix seconds, or how long ago, as `10m` or `2h30m`")
    })?;
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Ok(now.as_secs().saturating_sub(ago.unsigned_abs().as_secs()))
}

/// The flag that negates the next one.
const NOT: &str = "not";
/// The heading of the filters in the help.
const HEADING: &str = "Filters: the same flag twice means either, different flags both";

/// The filters, in the order in which they were given.
#[derive(Clone, Debug, Default)]
pub struct Filters(pub Vec<Term>);

impl Args for Filters {
    fn augment_args(command: Command) -> Command {
        let filter = |(_, flag, value, help): (FilterKey, &'static str, &'static str, &'static str)| {
            Arg::new(flag)
                .long(flag)
                .value_name(value)
                .help(help)
                .action(ArgAction::Append)
                .help_heading(HEADING)
        };
        let not = Arg::new(NOT)
            .long(NOT)
            .help("Exclude what the next filter matches")
            .action(ArgAction::Append)
            .num_args(0)
            .default_missing_value("true")
            .help_heading(HEADING);
        command.args(FilterKey::FLAGS.map(filter)).arg(not)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Filters {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = Vec::new();
        for (key, flag, ..) in FilterKey::FLAGS {
            let values = matches.get_many::<String>(flag).into_iter().flatten();
            let places = matches.indices_of(flag).into_iter().flatten();
            given.extend(places.zip(values).map(|(place, value)| (place, key, flag, value)));
        }
        given.sort_unstable_by_key(|(place, ..)| *place);
        let negations: Vec<usize> = matches.indices_of(NOT).into_iter().flatten().collect();
        let mut terms = Vec::with_capacity(given.len());
        let mut before = 0;
        for (place, key, flag, value) in given {
            let negated = negations.iter().filter(|not| (before..place).contains(*not)).count() % 2 == 1;
            before = place;
            terms.push(Term::parse(key, value, negated).map_err(|right| {
                let message = format!("invalid value '{value}' for '--{flag}': {right}");
                clap::Error::raw(ErrorKind::ValueValidation, message)
            })?);
        }
        if negations.iter().any(|not| *not > before) {
            let message = "'--not' has no filter behind it: it negates the next one";
            return Err(clap::Error::raw(ErrorKind::MissingRequiredArgument, message));
        }
        Ok(Self(terms))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
