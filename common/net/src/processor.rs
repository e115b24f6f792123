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

#[cfg(all(test, target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests {
    use super::*;

    #[test]
    fn aes_is_chosen_where_the_kernel_says_that_there_are_instructions_for_it() {
        let described = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let has = |flag| described.split_whitespace().any(|word| word == flag);
        if has("aes") && (has("pclmulqdq") || has("pmull")) {
            assert_eq!(layer_cipher(), LayerCipher::Aes256Gcm);
        }
    }
}
