%% A known call tree: start/1 calls work/1, which calls heavy/0 and light/0. Argument: seconds. No call is the last one of its function.
-module(tree).
-export([start/1]).

spin(0, Sum) -> Sum;
spin(Count, Sum) -> spin(Count - 1, (Sum + Count) rem 1000003).

heavy() -> spin(600000, 0) + 1.

light() -> spin(300000, 0) + 1.

work(End) -> work(End, 0).

work(End, Sum) ->
    case erlang:monotonic_time(millisecond) < End of
        true -> work(End, Sum + heavy() + light());
        false -> Sum
    end.

start([Seconds]) ->
    End = erlang:monotonic_time(millisecond) + round(1000 * list_to_float(Seconds)),
    _ = work(End) + 1,
    halt(0).
