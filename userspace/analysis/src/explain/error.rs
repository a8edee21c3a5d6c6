//! Errors in a question.

/// Why there is no answer to a question.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// A name in the question does not exist: message with similar existing names.
    #[error("{0}")]
    NotFound(String),
    /// The question makes no sense: the problem, and the remedy.
    #[error("{0}")]
    Senseless(String),
}
