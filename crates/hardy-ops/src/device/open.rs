//! Opening a device, and saying in one sentence what is missing where that can not be done.

use std::{
    panic::{self, AssertUnwindSafe},
    sync::{Arc, Mutex, PoisonError},
};

/// Runs what may panic in the midst of an engine; gives what the first panic said, in one line.
///
/// # Errors
/// A panic.
pub fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    let first: Arc<Mutex<Option<String>>> = Arc::default();
    let heard = Arc::clone(&first);
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        heard.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| panic.to_string());
    }));
    let outcome = panic::catch_unwind(AssertUnwindSafe(run));
    panic::set_hook(before);
    let said = || first.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
    outcome.map_err(|_| said().split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(feature = "vulkan")]
pub use vulkan::{VulkanDevice, open_vulkan, opened_vulkan};

#[cfg(feature = "vulkan")]
mod vulkan {
    use std::sync::{Mutex, PoisonError};

    use burn_wgpu::{RuntimeOptions, WgpuDevice, graphics::Vulkan, init_setup};

    use super::caught;

    /// What a device says of itself.
    #[derive(Clone, Debug)]
    pub struct VulkanDevice {
        /// Its name.
        pub name: String,
        /// Whether it computes on the processor, as llvmpipe does, and so in the machine's memory.
        pub on_processor: bool,
    }

    /// Devices that were opened: an engine sets one up once.
    static OPENED: Mutex<Vec<(WgpuDevice, VulkanDevice)>> = Mutex::new(Vec::new());

    /// The device with a Vulkan driver that the system prefers, or the one of that number among GPUs of their own.
    ///
    /// # Errors
    /// There is none.
    pub fn open_vulkan(index: Option<usize>) -> Result<WgpuDevice, String> {
        let device = index.map_or(WgpuDevice::DefaultDevice, WgpuDevice::DiscreteGpu);
        let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        if opened.iter().any(|(known, _)| *known == device) {
            return Ok(device);
        }
        let setup = caught(|| init_setup::<Vulkan>(&device, RuntimeOptions::default())).map_err(|said| {
            let which = index.map_or_else(String::new, |index| format!(" number {index}"));
            format!(
                "no Vulkan device{which} ({said}); a GPU needs its vendor's Vulkan driver, and without one \
                 `apt-get install mesa-vulkan-drivers libvulkan1` brings llvmpipe, which computes on the processor"
            )
        })?;
        let info = setup.adapter.get_info();
        // By its name, for the type is of a crate that this one does not use.
        let on_processor = format!("{:?}", info.device_type) == "Cpu";
        opened.push((device.clone(), VulkanDevice { name: info.name, on_processor }));
        Ok(device)
    }

    /// What a device that was opened says of itself.
    pub fn opened_vulkan(device: &WgpuDevice) -> Option<VulkanDevice> {
        let opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
        opened.iter().find(|(known, _)| known == device).map(|(_, of)| of.clone())
    }
}

#[cfg(feature = "cuda")]
pub use cuda::{missing_for_cuda, missing_for_tensor_cores, open_cuda};

#[cfg(feature = "cuda")]
mod cuda {
    use std::{env, path::PathBuf};

    use burn_cuda::{Cuda, CudaDevice};
    use burn_tensor::backend::Backend;
    use libloading::Library;

    use super::caught;

    /// Where an installation of CUDA lies unless `CUDA_PATH` says otherwise.
    const USUAL: [&str; 2] = ["/usr/local/cuda", "/opt/cuda"];

    /// The NVIDIA GPU of that number, the first where none is given.
    ///
    /// # Errors
    /// There is none, or something is missing that computes on it.
    pub fn open_cuda(index: Option<usize>) -> Result<CudaDevice, String> {
        if let Some(missing) = missing_for_cuda() {
            return Err(missing);
        }
        let device = CudaDevice { index: index.unwrap_or_default() };
        let tried = caught(|| Cuda::<f32, i32>::sync(&device));
        let tried = tried.and_then(|tried| tried.map_err(|error| error.to_string()));
        tried.map_err(|said| {
            format!("no CUDA device number {} ({said}); `nvidia-smi -L` lists them", device.index)
        })?;
        Ok(device)
    }

    /// The first thing that is missing to compute with CUDA, and how to get it.
    pub fn missing_for_cuda() -> Option<String> {
        // SAFETY: loading the driver or the compiler runs no code of ours and nothing is called.
        let loads = |names: &[&str]| names.iter().any(|name| unsafe { Library::new(*name) }.is_ok());
        if !loads(&["libcuda.so.1", "libcuda.so", "nvcuda.dll"]) {
            return Some(
                "CUDA needs NVIDIA's driver, but libcuda.so.1 is not there: install the driver of the GPU"
                    .to_owned(),
            );
        }
        if !loads(&["libnvrtc.so", "libnvrtc.so.12", "libnvrtc.so.13", "nvrtc64_120_0.dll"]) {
            return Some(
                "CUDA needs its run-time compiler, but libnvrtc.so is not found: install the CUDA toolkit, or \
                 `pip install nvidia-cuda-nvrtc-cu12` and add site-packages/nvidia/cuda_nvrtc/lib to LD_LIBRARY_PATH"
                    .to_owned(),
            );
        }
        if !has_header("cuda_fp16.h") {
            return Some(
                "CUDA needs its headers, but there is no include/cuda_fp16.h under $CUDA_PATH or /usr/local/cuda: install \
                 the CUDA toolkit, or `pip install nvidia-cuda-runtime-cu12` and set CUDA_PATH to \
                 site-packages/nvidia/cuda_runtime"
                    .to_owned(),
            );
        }
        None
    }

    /// What products in bfloat16 on tensor cores lack, where the rest has all it needs, and how to get it.
    pub fn missing_for_tensor_cores() -> Option<String> {
        (!has_header("crt/mma.h")).then(|| {
            "bf16 on tensor cores needs include/crt/mma.h under $CUDA_PATH, which pip's nvidia-cuda-runtime-cu12 lacks: \
             `pip install nvidia-cuda-nvcc-cu12` and link site-packages/nvidia/cuda_nvcc/include/crt into \
             $CUDA_PATH/include"
                .to_owned()
        })
    }

    /// Whether the headers that CUDA's compiler is shown have this one.
    fn has_header(name: &str) -> bool {
        let roots = env::var_os("CUDA_PATH").map(PathBuf::from).into_iter();
        let mut roots = roots.chain(USUAL.map(PathBuf::from));
        roots.any(|root| root.join("include").join(name).exists())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_a_panic_says_is_caught_in_one_line() {
        assert_eq!(super::caught(|| 7), Ok(7));
        let said = super::caught(|| -> u8 { panic!("device\nlost") }).unwrap_err();
        assert!(said.ends_with("device lost") && !said.contains('\n'), "{said}");
    }
}
