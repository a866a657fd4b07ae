"""The way to an OpenAI-compatible server: `listener.Endpoint`, made from `settings.EndpointSettings`.

    settings      what can be set, and what is refused before anything is opened
    keys          an API key by the name of its environment variable, and the hosts that name may be sent to
    addresses     where a request may go, after the host's name was looked up
    transport     how connections are made: looked-up addresses, TLS, proxies
    wire          one request: deadlines, bounds, no redirects
    completions   what is sent and what came back, in the words of `chat/completions`
    pace          how much at once, and how much a minute
    outages       a server that is gone is waited for, then the run stops
    answers       every answer on disk before it is used
    budget        calls, tokens and money of a run, over all its resumes
    metered       the wire, with pace and budget around it
    preflight     one cheap question first: a wrong key, model or address is told in words
    listener      all of it together: questions in, answers out

Why httpx2 and not the openai package: that follows redirects with the key, waits 600 s, and does its own retries, so that
neither a deadline nor a count of what was paid would hold. huggingface_hub 2 brings httpx2 anyway.
"""
