//! From which length on texts are the GPU's.

use super::*;

/// An empty folder for what is measured.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("crossover").join(name);
    let _ = std::fs::remove_dir_all(&folder);
    let _ = std::fs::remove_file(&folder);
    folder
}

/// The crossover that a backend finds which keeps it in `folder`, of a GPU that is slow or not.
fn crossover(folder: &Path, slow: bool, threads: usize) -> usize {
    let (gpu, control) = Faulty::open(&model(), GPU);
    control.slow(if slow { Duration::from_millis(20) } else { Duration::ZERO });
    let options = BackendOptions { threads: Some(threads), dtype: Dtype::F32, ..BackendOptions::default() };
    let cpu = CpuBackend::new(&model(), &options).unwrap();
    let guard =
        GuardOptions { crossover: None, cache_dir: Some(folder.to_owned()), ..GuardOptions::default() };
    let backend = GuardedBackend::new(cpu, gpu, &guard).unwrap();
    let info = backend.info();
    assert_eq!((info.device, info.dtype), ("metal", "bf16"));
    info.accelerator.as_ref().unwrap().crossover
}

#[test]
fn the_crossover_is_measured_once_and_kept() {
    let folder = folder("kept");
    assert_eq!(crossover(&folder, true, 1), 301, "a GPU this slow serves no length");
    let files = || {
        let files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
        files
    };
    let [file] = &files()[..] else { panic!("{:?}", files()) };
    let written = std::fs::read_to_string(file).unwrap();
    let json: serde_json::Value = serde_json::from_str(&written).unwrap();
    assert_eq!((&json["crossover"]["rows"], &json["key"]["name"]), (&301.into(), &"Faulty 1".into()));
    // Whatever it would find now: what is kept counts.
    let known = written.replace("\"rows\": 301", "\"rows\": 64");
    std::fs::write(file, &known).unwrap();
    assert_eq!(crossover(&folder, true, 1), 64);
    // Other threads, another file.
    assert_eq!((crossover(&folder, true, 2), files().len()), (301, 2));
    // What is no such file is measured anew, and replaced.
    for damaged in ["", "{", "null", &written[..written.len() / 2], &written.replace("Faulty 1", "Other")] {
        std::fs::write(file, damaged).unwrap();
        assert_eq!(crossover(&folder, true, 1), 301, "{damaged}");
        let now: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        assert_eq!(now["key"], json["key"]);
    }
}

#[test]
fn a_crossover_that_cannot_be_kept_is_used_all_the_same() {
    let folder = folder("no-folder");
    std::fs::create_dir_all(folder.parent().unwrap()).unwrap();
    std::fs::write(&folder, "a file").unwrap();
    assert_eq!(crossover(&folder, true, 1), 301);
    assert_eq!(std::fs::read_to_string(&folder).unwrap(), "a file");
}
