//! Prediction, scoring, placement and planning: pure core, streaming state, recorded decisions.
