//! containerd as Kubernetes uses it, by its CRI: a pod whose sandbox is no machine, and a container that is one.
//!
//! There is no kubelet in Debian, so this plays its part with the handler of examples/engines/kubernetes. Field numbers are those of
//! Kubernetes' `runtime/v1/api.proto`.

use std::fs;
use std::path::PathBuf;

use crate::containerd::{SOCKET, containerd};
use crate::grpc::{Message, Reply, call};
use crate::lab::{IMAGE, eventually, is_alive, is_gone, lab, qemu_of};

/// The state of a container that has ended.
const EXITED: u64 = 2;

fn runtime(method: &str, request: &Message) -> Result<Reply, String> {
    call(
        SOCKET,
        &format!("runtime.v1.RuntimeService/{method}"),
        request,
    )
}

/// The handler that the example's RuntimeClass names.
fn handler() -> String {
    let class = fs::read_to_string("examples/engines/kubernetes/runtimeclass.yaml").unwrap();
    let mut lines = class.lines();
    let handler = lines.find_map(|line| line.strip_prefix("handler: "));
    handler.unwrap().to_owned()
}

/// The host's network, and processes of each container's own, as kubelet asks for it.
fn namespaces() -> Message {
    Message::default().number(1, 2).number(2, 1)
}

/// A pod on the host's network, which its machines do not have.
struct Pod {
    config: Message,
    id: String,
    logs: PathBuf,
}

impl Pod {
    fn new(name: &str) -> Self {
        Self::with(name, "org.rdvm.ignore", "network")
    }

    /// With this annotation, and what every pod needs, which its containers get too.
    fn with(name: &str, annotation: &str, value: &str) -> Self {
        containerd();
        let logs = lab().dir.join(name);
        let metadata = Message::default()
            .text(1, name)
            .text(2, name)
            .text(3, "default");
        let security = Message::default().message(1, &namespaces());
        let config = Message::default()
            .message(1, &metadata)
            .text(3, logs.to_str().unwrap())
            .entry(7, "org.rdvm.ignore", "network")
            .entry(7, annotation, value)
            .message(8, &Message::default().message(2, &security));
        let request = Message::default().message(1, &config).text(2, &handler());
        let id = runtime("RunPodSandbox", &request).unwrap().text(1);
        Self { config, id, logs }
    }

    /// A running container.
    fn start(&self, name: &str, words: &[&str]) -> String {
        let resources = Message::default().number(4, 128 << 20);
        let security = Message::default().message(3, &namespaces());
        let mut config = Message::default()
            .message(1, &Message::default().text(1, name))
            .message(2, &Message::default().text(1, IMAGE))
            .text(11, &format!("{name}.log"))
            .message(
                15,
                &Message::default()
                    .message(1, &resources)
                    .message(2, &security),
            );
        for word in words {
            config = config.text(3, word);
        }
        let request = Message::default().text(1, &self.id).message(2, &config);
        let request = request.message(3, &self.config);
        let id = runtime("CreateContainer", &request).unwrap().text(1);
        runtime("StartContainer", &Message::default().text(1, &id)).unwrap();
        id
    }

    /// The lines of a container's log that are of this stream.
    fn log(&self, name: &str, stream: &str) -> Vec<String> {
        let text = fs::read_to_string(self.logs.join(format!("{name}.log"))).unwrap_or_default();
        let lines = text.lines().filter_map(|line| {
            let mut words = line.splitn(4, ' ').skip(1);
            (words.next() == Some(stream)).then(|| words.nth(1).unwrap().to_owned())
        });
        lines.collect()
    }

    fn remove(self) {
        let request = Message::default().text(1, &self.id);
        runtime("StopPodSandbox", &request).unwrap();
        runtime("RemovePodSandbox", &request).unwrap();
        is_gone(&self.id);
    }
}

/// The exit code of a container that ends.
fn exit_code(id: &str) -> u64 {
    let request = Message::default().text(1, id);
    let status = || runtime("ContainerStatus", &request).unwrap().message(1);
    eventually("the container has ended", || status().number(3) == EXITED);
    status().number(7)
}

fn remove(id: &str) {
    runtime("RemoveContainer", &Message::default().text(1, id)).unwrap();
    is_gone(id);
}

/// The process that stands for a container, or a sandbox.
fn pid(id: &str) -> u32 {
    let path = format!("/run/containerd/io.containerd.runtime.v2.task/k8s.io/{id}/init.pid");
    fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

#[test]
fn a_pod_of_kubernetes_runs_containers_as_machines() {
    let pod = Pod::new("ends");
    let script = "cat /proc/sys/kernel/random/boot_id; echo out; echo error >&2; exit 7";
    let container = pod.start("seven", &["sh", "-c", script]);
    assert_eq!(exit_code(&container), 7);
    let host = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let [boot, out] = &pod.log("seven", "stdout")[..] else {
        panic!("{:?}", pod.log("seven", "stdout"));
    };
    assert_ne!(boot, host.trim(), "the command runs on the host's kernel");
    assert_eq!(out, "out");
    assert_eq!(pod.log("seven", "stderr"), ["error"]);
    remove(&container);
    pod.remove();
}

#[test]
fn the_sandbox_of_a_pod_takes_no_machine() {
    let pod = Pod::new("sandbox");
    let sandbox = pid(&pod.id);
    let program = fs::read_link(format!("/proc/{sandbox}/exe")).unwrap();
    assert!(is_alive(sandbox));
    assert!(!program.to_str().unwrap().contains("qemu"), "{program:?}");
    let children = fs::read_to_string(format!("/proc/{sandbox}/task/{sandbox}/children"));
    assert_eq!(children.unwrap(), "", "the sandbox has a child");
    pod.remove();
    eventually("the sandbox is gone", || !is_alive(sandbox));
}

#[test]
fn kubernetes_stops_a_container_with_its_handler_and_cannot_enter_it() {
    let pod = Pod::new("stops");
    let script = "trap 'exit 9' TERM; echo on; while true; do sleep 0.1; done";
    let container = pod.start("stops", &["sh", "-c", script]);
    eventually("the command runs", || pod.log("stops", "stdout") == ["on"]);
    let qemu = qemu_of(pid(&container));
    let exec = Message::default()
        .text(1, &container)
        .text(2, "true")
        .number(3, 20);
    let error = runtime("ExecSync", &exec).unwrap_err();
    assert!(error.contains("a machine runs one command"), "{error}");
    let stop = Message::default().text(1, &container).number(2, 60);
    runtime("StopContainer", &stop).unwrap();
    assert_eq!(exit_code(&container), 9);
    eventually("the machine is gone", || !is_alive(qemu));
    remove(&container);
    pod.remove();
}

#[test]
fn the_time_of_a_pods_containers_is_limited_by_its_annotation() {
    let pod = Pod::with("late", "org.rdvm.timeout", "3s");
    let container = pod.start("late", &["sleep", "1000"]);
    assert_eq!(exit_code(&container), 124);
    remove(&container);
    pod.remove();
}
