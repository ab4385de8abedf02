package node

// clusterHelp explains a number that is the same on all nodes.
func clusterHelp(metric string) string {
	help := map[string]string{
		"relay_cluster_queue_messages":   "Messages in the queue of the whole cluster; the same on every node.",
		"relay_cluster_queue_recipients": "Recipients in the queue of the whole cluster; the same on every node.",
		"relay_cluster_queue_bytes":      "Octets of the messages in the queue of the whole cluster; the same on every node.",
		"relay_cluster_spool_messages": "Messages that the cluster keeps, in the queue or in mailboxes; the same " +
			"on every node.",
		"relay_cluster_spool_bytes":      "Octets of the messages that the cluster keeps; the same on every node.",
		"relay_cluster_mailbox_messages": "Messages in all mailboxes; the same on every node.",
		"relay_cluster_history_bytes":    "Octets of the history of finished messages; the same on every node.",
		"relay_cluster_audit_bytes":      "Octets of the audit log; the same on every node.",
		"relay_cluster_rules":            "Standing rules; the same on every node.",
	}
	return help[metric]
}

// storageHelp explains a number of this node's log or store.
func storageHelp(metric string) string {
	help := map[string]string{
		"relay_log_appends_total": "Writes to this node's raft log; each is one sync of the disk.",
		"relay_log_entries_total": "Entries that were written to this node's raft log; many share a write.",
		"relay_log_bytes_total":   "Octets that were written to this node's raft log.",
		"relay_log_moves_total": "Times that entries of the raft log were copied to raft.db; none since the cluster " +
			"version is 2.",
		"relay_log_cache_hits_total":        "Reads of the raft log that memory answered.",
		"relay_log_cache_misses_total":      "Reads of the raft log that went to the disk.",
		"relay_store_commands_total":        "Commands that this node has applied to its store.",
		"relay_store_batches_total":         "Batches in which this node has applied commands to its store.",
		"relay_store_bytes_total":           "Octets that this node has applied to its store.",
		"relay_store_flushes_total":         "Times that this node's store wrote its memory table to the disk.",
		"relay_store_stalls_total":          "Times that writes to this node's store had to wait for the disk.",
		"relay_store_installs_total":        "Snapshots from another node that this node has installed.",
		"relay_log_held_bytes":              "Octets of the entries that this node's raft log holds.",
		"relay_log_file_bytes":              "Octets of the files of this node's raft log.",
		"relay_store_disk_bytes":            "Octets of this node's store on the disk.",
		"relay_store_body_bytes":            "Octets of the files with message bodies.",
		"relay_store_body_live_bytes":       "Octets of message bodies that are still needed.",
		"relay_store_memtable_bytes":        "Octets of the memory table of this node's store.",
		"relay_store_compaction_debt_bytes": "Octets that this node's store has yet to compact.",
	}
	return help[metric]
}
