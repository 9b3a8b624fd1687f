// SPDX-License-Identifier: Apache-2.0
//! Real servers for tests: started on free ports of the loopback interface with their data in temporary folders, ended by
//! process id when they are dropped.

pub mod redis;
