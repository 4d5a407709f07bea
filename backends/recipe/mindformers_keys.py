"""Keys of a mindformers YAML that only the Ascend backend reads, so that a misspelt one is still noticed.

Taken from mindformers 1.1.0 (the contest's Llama-3 recipes) and 1.9.0. Their values pass through as they are.
"""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ASCEND_TOP_LEVEL = _words(
    """
    auto_trans_ckpt auto_tune autotune_per_step balanced_load eval_epoch_interval eval_step_interval
    exclude_cann_cpu filepath_prefix init_start_profile layer_decay load_ckpt_async load_ckpt_format
    lr_scale_factor micro_batch_interleave_num moe_config only_save_strategy pretrained_model_dir
    print_separate_loss profile profile_communication profile_level profile_memory profile_rank_ids
    profile_start_step profile_stop_step remote_save_url remove_redundancy reshard_worker_num
    src_strategy_path_or_dir swap_config transform_process_num use_legacy use_legacy_format use_parallel
    """
)

DATASET = _words(
    """
    auto_tune autotune_per_step batch_size data_loader do_eval drop_remainder dynamic_batch eod_reset eod_token_id
    filepath_prefix input_columns max_length num_parallel_workers numa_enable output_columns pad_token_id
    per_batch_size prefetch_size profile python_multiprocessing repeat seed tokenizer
    """
)

# section → its keys; an empty set: they are not checked
SECTIONS: dict[str, frozenset[str]] = {
    "trainer": _words("model_name type"),
    "parallel": _words(
        """
        all_reduce_fusion_config comm_fusion dataset_strategy device_num enable_alltoall enable_parallel_optimizer
        full_batch gradients_mean loss_repeated_mean parallel_mode parallel_optimizer_config parameter_broadcast
        search_mode strategy_ckpt_config strategy_ckpt_load_file strategy_ckpt_save_file
        """
    ),
    "parallel_config": _words(
        """
        context_parallel context_parallel_algo data_parallel expert_parallel gradient_aggregation_group
        micro_batch_interleave_num micro_batch_num model_parallel optimizer_shard pipeline_stage seq_split_num
        ulysses_degree_in_cp use_seq_parallel vocab_emb_dp
        """
    ),
    "recompute_config": _words(
        """
        mp_comm_recompute parallel_optimizer_comm_recompute recompute recompute_slice_activation
        select_comm_recompute select_recompute select_recompute_exclude
        """
    ),
    "context": _words(
        """
        affinity_cpu_list ascend_config debug_level deterministic device_id device_target enable_graph_kernel
        graph_kernel_flags infer_boost jit_config jit_level max_call_depth max_device_memory memory_offload
        mempool_block_size mode runtime_num_threads save_graphs save_graphs_path
        """
    ),
    "train_dataset": DATASET,
    "eval_dataset": DATASET,
    "train_dataset_task": _words("dataset_config type"),
    "eval_dataset_task": _words("dataset_config type"),
    "metric": _words("type"),
    "processor": _words("return_tensors tokenizer type"),
    "monitor_config": frozenset(),
}

# type → its keys besides "type"; an empty set: they are not checked
CALLBACKS: dict[str, frozenset[str]] = {
    "MFLossMonitor": _words("origin_epochs per_print_times"),
    "CheckpointMonitor": _words(
        """
        append_info async_save checkpoint_format directory exception_save integrated_save keep_checkpoint_max
        keep_checkpoint_per_n_minutes prefix remove_redundancy save_checkpoint_seconds save_checkpoint_steps
        save_network_params save_trainable_params
        """
    ),
    "ObsMonitor": _words("epoch_upload_frequence local_upload_dir remote_save_url step_upload_frequence"),
    "EvalCallBack": frozenset(),
    "SummaryMonitor": frozenset(),
    "ProfileMonitor": frozenset(),
    "StressDetectCallBack": frozenset(),
    "MaxLogitsMonitor": frozenset(),
    "MoEDropRateCallback": frozenset(),
    "TopkBiasBalanceCallback": frozenset(),
}
CALLBACKS["CheckpointMointor"] = CALLBACKS["CheckpointMonitor"]  # the spelling of mindformers 1.x
