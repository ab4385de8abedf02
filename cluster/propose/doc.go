// Package propose carries commands into the log, and questions to other members: the
// proposer with its attempts and budgets, the batcher before raft, and the streams
// between members with their codec and server.
package propose
