//! PSCI 1.1 and the SMCCC's discovery calls, served in the place of firmware.

/// PSCI_VERSION.
const VERSION: u32 = 0x8400_0000;
const CPU_OFF: u32 = 0x8400_0002;
const CPU_ON_32: u32 = 0x8400_0003;
const CPU_ON_64: u32 = 0xc400_0003;
const AFFINITY_INFO_32: u32 = 0x8400_0004;
const AFFINITY_INFO_64: u32 = 0xc400_0004;
const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
const SYSTEM_OFF: u32 = 0x8400_0008;
const SYSTEM_RESET: u32 = 0x8400_0009;
const FEATURES: u32 = 0x8400_000a;
const SMCCC_VERSION: u32 = 0x8000_0000;

const SUCCESS: i64 = 0;
const NOT_SUPPORTED: i64 = -1;
const INVALID_PARAMETERS: i64 = -2;
const ALREADY_ON: i64 = -4;
const ON_PENDING: i64 = -5;
const INVALID_ADDRESS: i64 = -9;

/// Whether a PE runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Power {
    /// Switched off.
    Off,
    /// To be started at `entry` with `context` in x0.
    Pending {
        /// Physical address.
        entry: u64,
        /// For x0.
        context: u64,
    },
    /// Running, or asleep.
    On,
}

/// What a call comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    /// x0 of the caller.
    Return(u64),
    /// The caller is off.
    CpuOff,
    /// The machine is off.
    SystemOff,
    /// The machine would start anew.
    SystemReset,
}

/// Serves call `function` with these arguments, for a machine whose PEs, affinity n being number n, are in `power`;
/// `is_ram` tells where code can be.
pub(crate) fn call(function: u64, arguments: [u64; 3], power: &mut [Power], is_ram: impl Fn(u64) -> bool) -> Answer {
    let [x1, x2, x3] = arguments;
    let result = match function as u32 {
        VERSION | SMCCC_VERSION => 0x1_0001,
        FEATURES => match x1 as u32 {
            VERSION | CPU_OFF | CPU_ON_32 | CPU_ON_64 | AFFINITY_INFO_32 | AFFINITY_INFO_64 | MIGRATE_INFO_TYPE
            | SYSTEM_OFF | SYSTEM_RESET | FEATURES | SMCCC_VERSION => SUCCESS,
            _ => NOT_SUPPORTED,
        },
        CPU_OFF => return Answer::CpuOff,
        SYSTEM_OFF => return Answer::SystemOff,
        SYSTEM_RESET => return Answer::SystemReset,
        CPU_ON_32 | CPU_ON_64 => match power.get_mut(x1 as usize) {
            None => INVALID_PARAMETERS,
            Some(Power::On) => ALREADY_ON,
            Some(Power::Pending { .. }) => ON_PENDING,
            Some(_) if !x2.is_multiple_of(4) || !is_ram(x2) => INVALID_ADDRESS,
            Some(target) => {
                *target = Power::Pending { entry: x2, context: x3 };
                SUCCESS
            }
        },
        AFFINITY_INFO_32 | AFFINITY_INFO_64 => match power.get(x1 as usize) {
            // Affinity level 0 only; at a higher one something is on, the caller.
            Some(_) if x2 > 0 => 0,
            Some(Power::On) => 0,
            Some(Power::Off) => 1,
            Some(Power::Pending { .. }) => 2,
            None => INVALID_PARAMETERS,
        },
        // No trusted OS.
        MIGRATE_INFO_TYPE => 2,
        _ => NOT_SUPPORTED,
    };
    Answer::Return(result as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(power: &mut [Power], target: u64, entry: u64) -> Answer {
        call(CPU_ON_64.into(), [target, entry, 7], power, |pa| pa >= 0x1000)
    }

    #[test]
    fn a_pe_is_started_once() {
        let mut power = [Power::On, Power::Off];
        let error = |code: i64| Answer::Return(code as u64);
        assert_eq!(on(&mut power, 2, 0x1000), error(INVALID_PARAMETERS));
        assert_eq!(on(&mut power, 1, 0x1002), error(INVALID_ADDRESS));
        assert_eq!(on(&mut power, 1, 0xffc), error(INVALID_ADDRESS));
        assert_eq!(on(&mut power, 1, 0x1000), error(SUCCESS));
        assert_eq!(power[1], Power::Pending { entry: 0x1000, context: 7 });
        assert_eq!(on(&mut power, 1, 0x1000), error(ON_PENDING));
        power[1] = Power::On;
        assert_eq!(on(&mut power, 1, 0x1000), error(ALREADY_ON));
    }

    #[test]
    fn what_is_not_there_is_said_so() {
        let not_supported = Answer::Return(NOT_SUPPORTED as u64);
        assert_eq!(call(0xc400_0001, [0; 3], &mut [Power::On], |_| true), not_supported);
        assert_eq!(call(FEATURES.into(), [0xc400_0001, 0, 0], &mut [Power::On], |_| true), not_supported);
    }
}
