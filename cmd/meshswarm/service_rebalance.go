package main

// rebalanceMove is a task that leaves its node.
type rebalanceMove struct {
	TaskID string
	Slot   int
	// From is the ID of the node.
	From string
}
