use super::*;

const EBUSY: i32 = -16;
const EEXIST: i32 = -17;
const E2BIG: i32 = -7;
const ENOMEM: i32 = -12;
const EDEADLK: i32 = -35;
const ETIMEDOUT: i32 = -110;

/// The result of an insert that is busy for `busy` tries and then answers, and how many tries it took.
fn insert_after(busy: u32, answer: Result<(), i32>) -> (Inserted<()>, u32) {
    let mut tries = 0;
    let inserted = insert_by(|| {
        tries += 1;
        if tries <= busy { Err(EBUSY) } else { answer }
    });
    (inserted, tries)
}

#[test]
fn only_a_busy_bucket_is_worth_another_try() {
    for (answer, inserted) in [
        (Ok(()), Inserted::Created),
        (Err(EEXIST), Inserted::Exists(())),
        (Err(E2BIG), Inserted::Full),
        (Err(ENOMEM), Inserted::Full),
        (Err(EDEADLK), Inserted::Full),
        (Err(ETIMEDOUT), Inserted::Full),
        (Err(-1), Inserted::Full),
        (Err(i32::MIN), Inserted::Full),
    ] {
        assert_eq!(from_errno(answer), Some(inserted), "{answer:?}");
        for busy in 0..TRIES {
            assert_eq!(insert_after(busy, answer), (inserted, busy + 1), "{answer:?}");
        }
        assert_eq!(insert_after(TRIES, answer), (Inserted::Busy, TRIES), "{answer:?}");
    }
    assert_eq!(from_errno(Err(EBUSY)), None);
    for code in i32::from(i16::MIN)..0 {
        assert_eq!(from_errno(Err(code)).is_none(), code == EBUSY, "{code}");
    }
}
