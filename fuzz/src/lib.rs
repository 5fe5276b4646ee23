//! What must hold of any bytes. The library's own tests include these files and check the corpus with them, so a
//! finding that is added to it is looked at in every run of the tests.

pub mod document;
pub mod token_response;
