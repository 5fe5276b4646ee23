//! What an application proves itself with.

use pyo3::prelude::*;
use strongroom::ClientCredential;

/// A client credential.
#[pyclass(frozen, module = "strongroom._strongroom")]
pub(crate) struct Credential(ClientCredential);

#[pymethods]
impl Credential {
    /// A secret: its value.
    #[staticmethod]
    fn secret(secret: String) -> Self {
        Self(ClientCredential::from_secret(secret))
    }
}

impl Credential {
    pub(super) fn inner(&self) -> ClientCredential {
        self.0.clone()
    }
}
