// Generated from the server’s OpenAPI description by “npm run types”; changes belong there.

export type paths = Record<string, never>;
export type webhooks = Record<string, never>;
export interface components {
    schemas: {
        /** @description What to change; what is left out stays. */
        readonly ChangeSnapshot: {
            /**
             * @description the new description
             * @default null
             */
            readonly description?: string | null;
            /**
             * @description the new name
             * @default null
             */
            readonly name?: string | null;
        };
        /** @description The guest's console. */
        readonly Console: {
            /** @description the last ones, oldest first, without control characters */
            readonly lines: readonly string[];
        };
        /** @description A snapshot to take now. */
        readonly CreateSnapshot: {
            /**
             * @description shown in lists
             * @default
             */
            readonly description?: string;
            /**
             * @description unique within the scope; without one it becomes s1, s2, …
             * @default null
             */
            readonly name?: string | null;
            /**
             * @description the notebook document as it is on screen (nbformat 4)
             * @default null
             */
            readonly notebook?: {
                readonly [key: string]: unknown;
            } | null;
        };
        /** @description Every error. */
        readonly Failure: {
            /** @description last lines of the guest's console, where there are any */
            readonly details: readonly string[];
            /**
             * @description dotted path of the value that was refused
             * @default null
             */
            readonly field: string | null;
            /** @description one line, fit to be shown */
            readonly message: string;
            /** @description class of the error, such as SnapshotExists */
            readonly reason: string;
            /**
             * @description who gave that value: kernelspec, notebook, call, request …
             * @default null
             */
            readonly source: string | null;
        };
        /** @description Make new kernels. */
        readonly Fork: {
            /**
             * @description how many
             * @default 1
             */
            readonly count?: number;
            /**
             * @description a notebook; each fork gets a copy of it, beside the original, and a session on the copy
             * @default null
             */
            readonly path?: string | null;
            /**
             * @description from this snapshot; without one from this instant
             * @default null
             */
            readonly snapshot?: string | null;
        };
        /** @description A kernel that was made by a fork. */
        readonly ForkedKernel: {
            readonly kernel_id: string;
            readonly name: string;
            /** @description the notebook's copy */
            readonly path: string | null;
            readonly session_id: string | null;
        };
        /** @description A kernel in a microVM. */
        readonly Kernel: {
            /** @description id of the snapshot that the state came from or was last saved as */
            readonly current: string | null;
            /** @description what the snapshots of the scope take on disk */
            readonly disk_bytes: number;
            /** @description raised by every start and restore */
            readonly generation: number;
            readonly image: string | null;
            readonly kernel_id: string;
            /** @description snapshots from which the state came, oldest first */
            readonly lineage: readonly components["schemas"]["LineageItem"][];
            readonly mem_size_mib: number | null;
            /** @description memory that the host really spends on it */
            readonly mem_used_mib: number | null;
            readonly monitor: string | null;
            readonly monitor_version: string | null;
            readonly network: string | null;
            readonly scope: string;
            /** @description template, pool, cold or snapshot */
            readonly started: string | null;
            /** @enum {string} */
            readonly state: "booting" | "running" | "pausing" | "restoring" | "dead";
            /** @description isolation that the running VM gives; null while there is none */
            readonly tier: string | null;
            readonly uptime_s: number | null;
            readonly vcpu_count: number | null;
            readonly vm_id: string | null;
        };
        /** @description New kernels start from a snapshot of this one. */
        readonly KernelForked: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            readonly action: "fork";
            readonly forks: readonly components["schemas"]["ForkedKernel"][];
            /** @description the kernel; empty where none is known */
            readonly kernel_id: string;
            /**
             * @description place in the host's stream of events
             * @default 0
             */
            readonly seq: number;
            readonly snapshot: components["schemas"]["Snapshot"];
        };
        /** @description What the administrator allows. */
        readonly Limits: {
            /** @description null is all */
            readonly allowed_images: readonly string[] | null;
            /** @description most kernels that one request may make */
            readonly max_forks: number;
            readonly max_mem_size_mib: number;
            readonly max_snapshot_bytes: number;
            readonly max_snapshots: number;
            readonly max_start_timeout_s: number;
            readonly max_vcpu_count: number;
            readonly minimum_tier: string;
            readonly networks: readonly string[];
        };
        /** @description One ancestor of a kernel's state. */
        readonly LineageItem: {
            readonly id: string;
            readonly name: string;
        };
        /** @description What happened to a kernel's microVM, or to a snapshot. */
        readonly PublicEvent: components["schemas"]["StateChanged"] | components["schemas"]["SnapshotTaken"] | components["schemas"]["SnapshotRestored"] | components["schemas"]["KernelForked"] | components["schemas"]["SnapshotChanged"] | components["schemas"]["SnapshotDeleted"];
        /** @description Put the kernel back. */
        readonly Restore: {
            /**
             * @description leave Python's random generators as they were
             * @default false
             */
            readonly same_seed?: boolean;
            /** @description id of a snapshot of the kernel's scope */
            readonly snapshot: string;
        };
        /** @description A checkpoint of a whole machine. */
        readonly Snapshot: {
            /** @description ISO 8601, UTC */
            readonly created: string;
            /** @description a kernel's state stands here */
            readonly current: boolean;
            readonly description: string;
            readonly has_notebook: boolean;
            readonly id: string;
            readonly image: string;
            /** @description a running VM has it */
            readonly in_use: boolean;
            readonly kernel_id: string | null;
            readonly mem_size_mib: number;
            readonly monitor: string;
            readonly name: string;
            /** @description id */
            readonly parent: string | null;
            readonly scope: string;
            /** @description what it added to the disk when it was taken */
            readonly size_bytes: number;
            readonly vcpu_count: number;
        };
        /** @description A snapshot has another name or description. */
        readonly SnapshotChanged: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            readonly action: "rename";
            /** @description the kernel; empty where none is known */
            readonly kernel_id: string;
            /**
             * @description place in the host's stream of events
             * @default 0
             */
            readonly seq: number;
            readonly snapshot: components["schemas"]["Snapshot"];
        };
        /** @description A snapshot is gone. */
        readonly SnapshotDeleted: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            readonly action: "delete";
            /** @description the kernel; empty where none is known */
            readonly kernel_id: string;
            /**
             * @description place in the host's stream of events
             * @default 0
             */
            readonly seq: number;
            readonly snapshot: components["schemas"]["Snapshot"];
        };
        /** @description A kernel was put back to a snapshot. */
        readonly SnapshotRestored: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            readonly action: "restore";
            /** @description the kernel; empty where none is known */
            readonly kernel_id: string;
            /**
             * @description place in the host's stream of events
             * @default 0
             */
            readonly seq: number;
            readonly snapshot: components["schemas"]["Snapshot"];
        };
        /** @description A snapshot was taken, or imported. */
        readonly SnapshotTaken: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            readonly action: "snapshot";
            /** @description the kernel; empty where none is known */
            readonly kernel_id: string;
            /**
             * @description place in the host's stream of events
             * @default 0
             */
            readonly seq: number;
            readonly snapshot: components["schemas"]["Snapshot"];
        };
        /** @description A kernel is in another state. A ``dead`` one says why, and shows the end of the guest's console. */
        readonly StateChanged: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            readonly action: "state";
            /**
             * @description the last lines of the guest's console, for a kernel that is dead
             * @default []
             */
            readonly console: readonly string[];
            /** @description the kernel; empty where none is known */
            readonly kernel_id: string;
            /**
             * @description one line for people: why the kernel is dead
             * @default
             */
            readonly message: string;
            /**
             * @description exit status of a kernel process that has ended
             * @default null
             */
            readonly returncode: number | null;
            /**
             * @description place in the host's stream of events
             * @default 0
             */
            readonly seq: number;
            /** @enum {string} */
            readonly state: "booting" | "running" | "pausing" | "restoring" | "dead";
            /**
             * @description the microVM has ended by itself: nobody shut it down, and not only its kernel process ended
             * @default false
             */
            readonly vm_ended: boolean;
        };
        /** @description What this server can do. */
        readonly Status: {
            /** @description kernels are on another host; then the other routes answer 501 */
            readonly gateway: boolean;
            /** @description null with a gateway */
            readonly limits: components["schemas"]["Limits"] | null;
            /**
             * @description why there is no tier
             * @default null
             */
            readonly message: string | null;
            /** @description the best isolation of this host; null when no monitor runs, or with a gateway */
            readonly tier: string | null;
            readonly version: string;
        };
    };
    responses: never;
    parameters: never;
    requestBodies: never;
    headers: never;
    pathItems: never;
}
export type ChangeSnapshot = components['schemas']['ChangeSnapshot'];
export type Console = components['schemas']['Console'];
export type CreateSnapshot = components['schemas']['CreateSnapshot'];
export type Failure = components['schemas']['Failure'];
export type Fork = components['schemas']['Fork'];
export type ForkedKernel = components['schemas']['ForkedKernel'];
export type Kernel = components['schemas']['Kernel'];
export type KernelForked = components['schemas']['KernelForked'];
export type Limits = components['schemas']['Limits'];
export type LineageItem = components['schemas']['LineageItem'];
export type PublicEvent = components['schemas']['PublicEvent'];
export type Restore = components['schemas']['Restore'];
export type Snapshot = components['schemas']['Snapshot'];
export type SnapshotChanged = components['schemas']['SnapshotChanged'];
export type SnapshotDeleted = components['schemas']['SnapshotDeleted'];
export type SnapshotRestored = components['schemas']['SnapshotRestored'];
export type SnapshotTaken = components['schemas']['SnapshotTaken'];
export type StateChanged = components['schemas']['StateChanged'];
export type Status = components['schemas']['Status'];
export type $defs = Record<string, never>;
export type operations = Record<string, never>;
