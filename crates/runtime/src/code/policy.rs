//! What holds for all runs of one piece of code.

/// What holds for all runs of one piece of code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodePolicy {
    /// A run that is cancelled undoes what it has done, as one that fails does. Default `true`: who cancels
    /// an order expects its money back. With `false` it is left as it is.
    pub compensate_on_cancel: bool,
    /// When the code gives up, the children that it has started and that are not over are cancelled, before
    /// anything is undone. Default `true`. Children of code that has succeeded go on in any case.
    pub cancel_children_on_failure: bool,
    /// How many runs may lie above a child of this code, its parent included. Default 8: code that starts
    /// itself must not do so for ever.
    pub depth_max: usize,
}

impl Default for CodePolicy {
    fn default() -> Self {
        Self { compensate_on_cancel: true, cancel_children_on_failure: true, depth_max: 8 }
    }
}
