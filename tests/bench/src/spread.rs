//! Several measurements as three numbers.

use serde::{Deserialize, Serialize};

/// The median, the least and the most of some measurements, in their unit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The middle value; of an even number, the mean of the two in the middle.
    pub median: f64,
    #[serde(rename = "min")]
    pub least: f64,
    #[serde(rename = "max")]
    pub most: f64,
}

impl Spread {
    /// The spread of these measurements; `None` if there are none.
    pub fn of(measured: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = measured.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        Some(Self { median, least, most })
    }
}

/// The excess of the greatest value over the least, as a share of the least: 0.15 is 15 %. `None` without values, or if
/// the least is not above 0.
pub fn excess(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let Spread { least, most, .. } = Spread::of(values)?;
    (least > 0.0).then(|| most / least - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        for (measured, expected) in [
            (&[][..], None),
            (&[7.0][..], Some((7.0, 7.0, 7.0))),
            (&[9.0, -2.0, 4.0][..], Some((4.0, -2.0, 9.0))),
            (&[9.0, 1.0, 4.0, 5.0][..], Some((4.5, 1.0, 9.0))),
        ] {
            let spread = Spread::of(measured.iter().copied());
            let expected = expected.map(|(median, least, most)| Spread { median, least, most });
            assert_eq!(spread, expected, "{measured:?}");
        }
    }

    #[test]
    fn excess_is_relative_to_the_least() {
        for (values, expected) in [
            (&[][..], None),
            (&[0.0, 5.0][..], None),
            (&[80.0][..], Some(0.0)),
            (&[100.0, 80.0, 90.0][..], Some(0.25)),
        ] {
            assert_eq!(excess(values.iter().copied()), expected, "{values:?}");
        }
    }
}
