// Package fault has the errors of the cluster: how a proposal or a question can end
// without an answer, why a node can't be opened, initialised or joined, and how an
// error keeps its kind on the way between nodes.
package fault
