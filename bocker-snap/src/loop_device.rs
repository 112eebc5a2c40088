//! Loop devices: a file as a disk. By the ioctls of the kernel's `include/uapi/linux/loop.h`, explained in loop(4).

use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bocker_pipe::{Doing, Error, Kind, Result};
use rustix::io::Errno;
use rustix::ioctl::{Getter, NoArg, Opcode, Setter, ioctl};

/// Hands out free devices.
const CONTROL: &str = "/dev/loop-control";
/// One directory for each block device; in that of a loop device which has a file, there is a directory `loop`.
const BLOCK: &str = "/sys/block";

/// `LOOP_GET_STATUS64`, `LOOP_SET_CAPACITY`, `LOOP_CONFIGURE` (Linux 5.8), `LOOP_CTL_GET_FREE`.
const GET_STATUS: Opcode = 0x4c05;
const SET_CAPACITY: Opcode = 0x4c07;
const CONFIGURE: Opcode = 0x4c0a;
const GET_FREE: Opcode = 0x4c82;
/// `LO_FLAGS_AUTOCLEAR`: the file is let go of when nobody has the device open or mounted any more.
const AUTOCLEAR: u32 = 4;
/// `LO_FLAGS_DIRECT_IO`: the file's pages are not kept in memory beside those of the filesystem in it.
const DIRECT_IO: u32 = 16;
/// What the device is read and written in: a multiple of every disk's block, which direct I/O wants.
const BLOCK_SIZE: u32 = 4096;
/// How often a device that another took first is asked for anew.
const TRIES: usize = 100;

/// `struct loop_info64`.
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    raw_device: u64,
    offset: u64,
    limit: u64,
    number: u32,
    encryption: [u32; 2],
    flags: u32,
    names: [u8; 160],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

// What the kernel copies must be as long as it thinks.
const _: () = assert!(size_of::<Info>() == 232);
const _: () = assert!(size_of::<Config>() == 304);

/// A device that has a file. As long as it is open, it keeps it.
pub(crate) struct LoopDevice {
    pub(crate) path: PathBuf,
    device: File,
    info: Info,
}

impl LoopDevice {
    /// The device that has the file already, whoever gave it, else a free one. Two of one file would damage what is in it.
    pub(crate) fn attach(file: &File) -> Result<LoopDevice> {
        if let Some(found) = LoopDevice::find(file)? {
            return Ok(found);
        }
        // Opened anew: the device keeps what it is given, and with it a lock that its opener may hold.
        let own = open(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())))?;
        let control = open(Path::new(CONTROL)).map_err(|error| {
            error.hint("loop devices are made by the kernel module 'loop': try 'modprobe loop'")
        })?;
        for _ in 0..TRIES {
            // SAFETY: the call takes no argument; what it returns is the number of a device.
            let number =
                unsafe { ioctl(&control, GetFree) }.doing(|| "find a free loop device".into())?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = open(&path)?;
            match configure(&device, &own) {
                Ok(()) => return LoopDevice::of(path, device),
                // Another was faster.
                Err(Errno::BUSY) => {}
                Err(error) => {
                    return Err(error).doing(|| format!("give {} its file", path.display()));
                }
            }
        }
        Err(Error::new(Kind::InUse, "every free loop device was taken by others").hint("try again"))
    }

    /// The device that has the file.
    fn find(file: &File) -> Result<Option<LoopDevice>> {
        for entry in fs::read_dir(BLOCK)
            .doing(|| format!("read {BLOCK}"))?
            .flatten()
        {
            if !entry.path().join("loop").exists() {
                continue;
            }
            // It may go, or be another's, at any moment.
            let path = Path::new("/dev").join(entry.file_name());
            if let Ok(device) = LoopDevice::open(&path)
                && device.has(file)?
            {
                return Ok(Some(device));
            }
        }
        Ok(None)
    }

    /// A device by its path. Fails when it has no file.
    pub(crate) fn open(path: &Path) -> Result<LoopDevice> {
        LoopDevice::of(path.to_owned(), open(path)?)
    }

    fn of(path: PathBuf, device: File) -> Result<LoopDevice> {
        // SAFETY: the number is that of the structure, of which every pattern of bits is a value.
        let request = unsafe { Getter::<GET_STATUS, Info>::new() };
        // SAFETY: the kernel fills the structure.
        let info =
            unsafe { ioctl(&device, request) }.doing(|| format!("ask {}", path.display()))?;
        Ok(LoopDevice { path, device, info })
    }

    /// Whether it is this file that the device shows, whole.
    pub(crate) fn has(&self, file: &File) -> Result<bool> {
        let data = file.metadata().doing(|| "examine a file".into())?;
        Ok((self.info.device, self.info.inode, self.info.offset) == (data.dev(), data.ino(), 0))
    }

    /// Whether the filesystem on which the file lies lets it be read and written without a copy in memory.
    pub(crate) fn is_direct(&self) -> bool {
        self.info.flags & DIRECT_IO != 0
    }

    /// Takes notice of a file that has grown.
    pub(crate) fn grow(&self) -> Result<()> {
        // SAFETY: the call takes no argument.
        let request = unsafe { NoArg::<SET_CAPACITY>::new() };
        // SAFETY: as above.
        unsafe { ioctl(&self.device, request) }.doing(|| format!("grow {}", self.path.display()))
    }
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .doing(|| format!("open {}", path.display()))
}

fn configure(device: &File, file: &File) -> rustix::io::Result<()> {
    match configure_with(device, file, AUTOCLEAR | DIRECT_IO) {
        // Most kernels go without what the filesystem cannot do.
        Err(Errno::INVAL) => configure_with(device, file, AUTOCLEAR),
        result => result,
    }
}

fn configure_with(device: &File, file: &File, flags: u32) -> rustix::io::Result<()> {
    let config = Config {
        fd: file.as_fd().as_raw_fd() as u32,
        block_size: BLOCK_SIZE,
        info: Info {
            device: 0,
            inode: 0,
            raw_device: 0,
            offset: 0,
            limit: 0,
            number: 0,
            encryption: [0; 2],
            flags,
            names: [0; 160],
            init: [0; 2],
        },
        reserved: [0; 8],
    };
    // SAFETY: the number is that of the structure.
    let request = unsafe { Setter::<CONFIGURE, _>::new(config) };
    // SAFETY: the kernel only reads the structure, and takes the file, which is open, for itself.
    unsafe { ioctl(device, request) }
}

/// `LOOP_CTL_GET_FREE`, which returns its answer instead of writing it.
struct GetFree;

// SAFETY: the call takes no argument and writes nothing.
unsafe impl rustix::ioctl::Ioctl for GetFree {
    type Output = i32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        GET_FREE
    }

    fn as_ptr(&mut self) -> *mut rustix::ffi::c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(
        output: rustix::ioctl::IoctlOutput,
        _: *mut rustix::ffi::c_void,
    ) -> rustix::io::Result<i32> {
        Ok(output)
    }
}
