"""What else people call a profile's fields, their values and the presets, in other simulators too; in small letters."""

_FIELDS = {
    "tile": "xbar crossbar crossbars array arrays core",
    "tile.rows": "row word_lines wordlines max_input_size rows_max n_rows nrows num_rows in_size array_size height",
    "tile.current_limit": "icol_max i_max integrator_limit column_current_limit max_current",
    "tile.cols": "columns column bit_lines bitlines max_output_size cols_max n_cols ncols num_cols num_columns width",
    "dac.bits": "inp_res input_bits in_bits dac_bits activation_bits act_bits",
    "dac.input_range": "inp_bound input_bound alpha input_scale in_range input_max input_limit",
    "dac.step_bits": "slice_size input_bitslicing bit_serial input_slices bits_per_cycle",
    "adc.bits": "out_res output_bits out_bits adc_bits adc_res adc_resolution",
    "adc.full_scale": "out_bound output_range adc_range calibrated_range range limits clip vref v_ref",
    "adc.kind": "type adc_type model",
    "adc.per": "granularity",
    "adc.capacitor_mismatch": "sigma_capacitor mismatch",
    "adc.offset_error": "sigma_comparator comparator_offset offset adc_offset",
    "adc.gain_error": "gain adc_gain",
    "weight.bits": "weight_bits w_bits wbits quantization",
    "weight.w_max": "wmax max_weight weight_range weight_scaling scale scaling",
    "noise.output": "out_noise output_noise sigma_out noise_std adc_noise",
    "noise.read": "w_noise read_noise weight_noise sigma_r sigma_read",
    "noise.multiplicative": "mult_noise proportional relative",
    "noise.distribution": "shape",
    "cells": "device devices cell memory_cell",
    "cells.mapping": "encoding style core_style scheme",
    "cells.g_min": "g_ratio on_off_ratio onoff_ratio on_off g_off gmin r_min rmin rmax r_max r_on r_off",
    "cells.bits": "cell_bits num_slices slices bits_per_cell weight_slices",
    "cells.subtraction": "subtract_current_in_xbar",
    "programming.sigma": "programming_error programming_noise prog_noise write_noise prog_coeff std std_dev variation",
    "drift.nu": "drift_coefficient exponent",
    "drift.nu_sigma": "nu_std nu_dtod",
    "drift.t0": "t_0",
    "drift.compensation": "drift_compensation",
    "flicker": "one_over_f 1/f 1f_noise",
    "flicker.read_time": "t_read",
    "faults": "defects stuck_at",
    "faults.stuck_off": "sa0 stuck_at_zero stuck_at_0 stuck_at_gmin",
    "faults.stuck_on": "sa1 stuck_at_one stuck_at_1 stuck_at_gmax",
    "wires": "parasitics ir_drop irdrop wire_resistance interconnect",
    "wires.row": "rp_row r_row row_resistance r_wire",
    "wires.column": "rp_col r_col column_resistance col",
    "wires.row_terminal": "rp_row_terminal",
    "wires.column_terminal": "rp_col_terminal",
    "wires.interleaved": "interleaved_posneg",
    "wires.gated": "gate_input",
    "iv": "nonlinear_iv nonlinearity",
}
_VALUES = {
    "differential": "balanced pair pairs single_pair two_sided",
    "offset": "biased unit_column reference_column",
    "signed": "single_device",
    "digital": "after_adc",
    "analog": "before_adc current",
    "column": "channel per_channel row per_row output per_column",
    "tensor": "layer matrix per_tensor",
    "layer": "matrix per_layer",
    "tile": "array per_tile per_array",
    "network": "model global",
    "dynamic": "auto absmax abs_max max batch",
    "gaussian": "normal",
    "laplace": "laplacian double_exponential",
    "down": "floor truncate",
    "nearest": "round",
    "global": "globaldriftcompensation yes on",
    "none": "no off",
    "ideal": "idealadc none quantizer",
    "im2col": "unfold unfolded toeplitz",
}
_PRESETS = {
    "pcm": "phase_change phase_change_memory pcmlike pcmpreset",
    "hermes": "ibm hermes_core hermesnoisemodel",
    "reram": "rram neurram memristor resistive",
    "isaac": "memristive",
    "sonos": "flash charge_trap nor_flash",
    "sram": "charge_domain capacitor",
    "brainscales2": "bss2 bss_2 brainscales hicann hicann_x hxtorch",
    "ideal": "perfect exact digital",
    "8bit": "int8 default",
}


def _by_word(*tables: dict[str, str]) -> dict[str, tuple[str, ...]]:
    words: dict[str, tuple[str, ...]] = {}
    for table in tables:
        for name, others in table.items():
            for word in others.split():
                words[word] = (*words.get(word, ()), name)
    return words


SYNONYMS = _by_word(_FIELDS, _VALUES, _PRESETS)
"""A word, and the names it may stand for; whoever asks knows which of them there are (`analogsim.meant`)."""
