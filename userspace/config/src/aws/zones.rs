//! Availability zone and region of an ENI or a subnet.

use super::super::object::Object;
use super::super::problem::Diagnostics;
use super::super::raw::Zone;
use super::super::value;
use super::word;

/// The zone of an ENI or a subnet.
pub(super) fn zone(object: &Object<'_>, report: &mut Diagnostics) -> Zone {
    let az_id = object.value("AvailabilityZoneId", report, word);
    let name = object.value("AvailabilityZone", report, word);
    let arn = object.value("SubnetArn", report, word);
    let on_outpost = object.get("OutpostArn").is_some();
    Zone {
        az_id: az_id.filter(|id| is_availability_zone(id) && !on_outpost),
        region: arn
            .as_deref()
            .and_then(value::region_of_arn)
            .or_else(|| name.as_deref().and_then(region_of_zone)),
    }
}

/// `euw1-az1` is an availability zone, `usw2-lax1-az1` a local zone.
fn is_availability_zone(id: &str) -> bool {
    let mut parts = id.split('-');
    let (Some(region), Some(zone), None) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    !region.is_empty() && zone.starts_with("az")
}

/// `eu-west-1` of `eu-west-1a`, and `us-west-2` of the local zone `us-west-2-lax-1a`.
fn region_of_zone(name: &str) -> Option<String> {
    let digit = name.find(|c: char| c.is_ascii_digit())?;
    let (area, number) = name.split_at(digit);
    let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    area.ends_with('-').then(|| format!("{area}{}", &number[..digits]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_has_a_region_and_is_an_availability_zone_or_not() {
        for (name, region) in [
            ("eu-west-1a", Some("eu-west-1")),
            ("us-gov-west-1b", Some("us-gov-west-1")),
            ("us-west-2-lax-1a", Some("us-west-2")),
            ("us-east-1-wl1-bos-wlz-1", Some("us-east-1")),
            ("ap-southeast-12c", Some("ap-southeast-12")),
            ("nowhere", None),
            ("1a", None),
        ] {
            assert_eq!(region_of_zone(name).as_deref(), region, "{name}");
        }
        for (id, fits) in [
            ("euw1-az1", true),
            ("usw2-lax1-az1", false),
            ("use1-wl1-bos-wlz1", false),
            ("az1", false),
        ] {
            assert_eq!(is_availability_zone(id), fits, "{id}");
        }
    }
}
