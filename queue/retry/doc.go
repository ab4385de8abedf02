// Package retry has a site's own rules of when mail that failed for now is tried again, how long it is tried, and when
// its sender is told that it is late: by the recipient's domain, and by what the last reply meant (queue/replyclass).
// It is pure: no clock, no randomness.
package retry
