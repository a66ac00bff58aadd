//! The API's own rules, before an operator that only notes what it is asked.
