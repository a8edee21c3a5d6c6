//! Why a question has no answer.

/// Why there is no answer to a question.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// Something that was named is not there: what, and what is there instead.
    #[error("{0}")]
    NotFound(String),
    /// The question makes no sense: the problem, and the remedy.
    #[error("{0}")]
    Senseless(String),
}
