"""The messages of the CRI (`runtime.v1`) and of containerd's own services that the node agent uses.

Field numbers are from kubernetes/cri-api `pkg/apis/runtime/v1/api.proto` and containerd `api/` (events, tasks,
containers); only fields that something here writes or reads are listed. See `wire.py` for the notation.
"""

from __future__ import annotations

from trimtab.components.node.wire import Codec

CRI = Codec("""
Empty:
Id: id=1
Int64Value: value=1:int
UInt64Value: value=1:int
PodSandboxMetadata: name=1 uid=2 namespace=3 attempt=4:int
DNSConfig: servers=1* searches=2* options=3*
PortMapping: protocol=1:int container_port=2:int host_port=3:int host_ip=4
NamespaceOption: network=1:int pid=2:int ipc=3:int target_id=4
SecurityProfile: profile_type=1:int localhost_ref=2
LinuxSandboxSecurityContext: namespace_options=1:NamespaceOption run_as_user=3:Int64Value run_as_group=8:Int64Value readonly_rootfs=4:bool supplemental_groups=5*:int privileged=6:bool seccomp=9:SecurityProfile
LinuxPodSandboxConfig: cgroup_parent=1 security_context=2:LinuxSandboxSecurityContext sysctls=3:map
PodSandboxConfig: metadata=1:PodSandboxMetadata hostname=2 log_directory=3 dns_config=4:DNSConfig port_mappings=5*:PortMapping labels=6:map annotations=7:map linux=8:LinuxPodSandboxConfig
RunPodSandboxRequest: config=1:PodSandboxConfig runtime_handler=2
PodSandboxStatusRequest: pod_sandbox_id=1 verbose=2:bool
PodIP: ip=1
PodSandboxNetworkStatus: ip=1 additional_ips=2*:PodIP
PodSandboxStatus: id=1 metadata=2:PodSandboxMetadata state=3:int created_at=4:int network=5:PodSandboxNetworkStatus labels=7:map annotations=8:map
PodSandboxStatusResponse: status=1:PodSandboxStatus info=2:map
PodSandbox: id=1 metadata=2:PodSandboxMetadata state=3:int created_at=4:int labels=5:map annotations=6:map
PodSandboxFilter: label_selector=3:map
ListPodSandboxRequest: filter=1:PodSandboxFilter
ListPodSandboxResponse: items=1*:PodSandbox
Mount: container_path=1 host_path=2 readonly=3:bool propagation=5:int
ImageSpec: image=1 annotations=2:map
KeyValue: key=1 value=2:bytes
LinuxContainerResources: cpu_period=1:int cpu_quota=2:int cpu_shares=3:int memory_limit_in_bytes=4:int oom_score_adj=5:int
Capability: add_capabilities=1* drop_capabilities=2*
LinuxContainerSecurityContext: capabilities=1:Capability privileged=2:bool namespace_options=3:NamespaceOption run_as_user=5:Int64Value run_as_group=12:Int64Value run_as_username=6 readonly_rootfs=7:bool supplemental_groups=8*:int no_new_privs=11:bool masked_paths=13* readonly_paths=14* seccomp=15:SecurityProfile apparmor=16:SecurityProfile
LinuxContainerConfig: resources=1:LinuxContainerResources security_context=2:LinuxContainerSecurityContext
ContainerMetadata: name=1 attempt=2:int
ContainerConfig: metadata=1:ContainerMetadata image=2:ImageSpec command=3* args=4* working_dir=5 envs=6*:KeyValue mounts=7*:Mount labels=9:map annotations=10:map log_path=11 stdin=12:bool stdin_once=13:bool tty=14:bool linux=15:LinuxContainerConfig
CreateContainerRequest: pod_sandbox_id=1 config=2:ContainerConfig sandbox_config=3:PodSandboxConfig
UpdateContainerResourcesRequest: container_id=1 linux=2:LinuxContainerResources
StopContainerRequest: container_id=1 timeout=2:int
Container: id=1 pod_sandbox_id=2 metadata=3:ContainerMetadata image=4:ImageSpec image_ref=5 state=6:int created_at=7:int labels=8:map annotations=9:map
ContainerFilter: label_selector=4:map
ListContainersRequest: filter=1:ContainerFilter
ListContainersResponse: containers=1*:Container
ContainerStatusRequest: container_id=1 verbose=2:bool
ContainerStatus: id=1 metadata=2:ContainerMetadata state=3:int created_at=4:int started_at=5:int finished_at=6:int exit_code=7:int image=8:ImageSpec image_ref=9 reason=10 message=11 labels=12:map annotations=13:map log_path=15
ContainerStatusResponse: status=1:ContainerStatus info=2:map
ExecSyncRequest: container_id=1 cmd=2* timeout=3:int
ExecSyncResponse: stdout=1:bytes stderr=2:bytes exit_code=3:int
AttachRequest: container_id=1 stdin=2:bool tty=3:bool stdout=4:bool stderr=5:bool
AttachResponse: url=1
Image: id=1 repo_tags=2* repo_digests=3* size=4:int uid=5:Int64Value username=6
ImageStatusRequest: image=1:ImageSpec verbose=2:bool
ImageStatusResponse: image=1:Image info=2:map
ListImagesRequest: filter=1:ImageFilter
ImageFilter: image=1:ImageSpec
ListImagesResponse: images=1*:Image
AuthConfig: username=1 password=2 auth=3 server_address=4 identity_token=5 registry_token=6
PullImageRequest: image=1:ImageSpec auth=2:AuthConfig sandbox_config=3:PodSandboxConfig
RemoveImageRequest: image=1:ImageSpec
VersionResponse: version=1 runtime_name=2 runtime_version=3 runtime_api_version=4
RuntimeCondition: type=1 status=2:bool reason=3 message=4
RuntimeStatus: conditions=1*:RuntimeCondition
StatusResponse: status=1:RuntimeStatus
ContainerAttributes: id=1 metadata=2:ContainerMetadata labels=3:map
CpuUsage: timestamp=1:int usage_core_nano_seconds=2:UInt64Value
MemoryUsage: timestamp=1:int working_set_bytes=2:UInt64Value
ContainerStats: attributes=1:ContainerAttributes cpu=2:CpuUsage memory=3:MemoryUsage
ListContainerStatsResponse: stats=1*:ContainerStats
""")

CONTAINERD = Codec("""
Empty:
Timestamp: seconds=1:int nanos=2:int
Any: type_url=1 value=2:bytes
Envelope: timestamp=1:Timestamp namespace=2 topic=3 event=4:Any
SubscribeRequest: filters=1*
PublishRequest: topic=1 event=2:Any
TaskExit: container_id=1 id=2 pid=3:int exit_status=4:int exited_at=5:Timestamp
TaskOOM: container_id=1
GetContainerRequest: id=1
ContainerRecord: id=1 labels=2:map image=3 spec=5:Any
GetContainerResponse: container=1:ContainerRecord
GetTaskRequest: container_id=1 exec_id=2
TaskProcess: container_id=1 id=2 pid=3:int status=4:int
GetTaskResponse: process=1:TaskProcess
ExecProcessRequest: container_id=1 stdin=2 stdout=3 stderr=4 terminal=5:bool spec=6:Any exec_id=7
StartRequest: container_id=1 exec_id=2
StartResponse: pid=1:int
WaitRequest: container_id=1 exec_id=2
WaitResponse: exit_status=1:int exited_at=2:Timestamp
KillRequest: container_id=1 exec_id=2 signal=3:int all=4:bool
ResizePtyRequest: container_id=1 exec_id=2 width=3:int height=4:int
CloseIORequest: container_id=1 exec_id=2 stdin=3:bool
DeleteProcessRequest: container_id=1 exec_id=2
""")
