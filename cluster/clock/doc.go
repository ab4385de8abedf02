// Package clock keeps the state's time: the clocks of the machine, the vote of the
// members' wall clocks, the stamps of a leader's term and how they are steered, and
// when a leader whose clock is wrong hands over. It decides; its caller reads the state
// and proposes.
package clock
