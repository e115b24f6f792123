//! What this machine's processor is fast at.

use tunic_proto::crypto::layer::LayerCipher;

/// The cipher for a relay's layers: AES-GCM where the processor has instructions for both of its parts, AES and the
/// multiplication of GHASH.
pub fn layer_cipher() -> LayerCipher {
    if has_aes_gcm() { LayerCipher::Aes256Gcm } else { LayerCipher::ChaCha20Poly1305 }
}

#[cfg(target_arch = "x86_64")]
fn has_aes_gcm() -> bool {
    is_x86_feature_detected!("aes") && is_x86_feature_detected!("pclmulqdq")
}

#[cfg(target_arch = "aarch64")]
fn has_aes_gcm() -> bool {
    std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_aes_gcm() -> bool {
    false
}
