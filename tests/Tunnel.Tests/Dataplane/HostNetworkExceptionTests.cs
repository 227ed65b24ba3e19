using Tunnel.Dataplane;

namespace Tunnel.Tests.Dataplane;

public sealed class HostNetworkExceptionTests
{
    [Theory]
    [InlineData(17, true, false)]
    [InlineData(2, false, true)]
    [InlineData(3, false, true)]
    [InlineData(19, false, true)]
    [InlineData(99, false, true)]
    [InlineData(1, false, false)]
    [InlineData(101, false, false)]
    public void Says_what_the_errno_means(int errno, bool alreadyExists, bool notFound)
    {
        var exception = new HostNetworkException("add route 172.17.52.0/24 dev tun0", errno, "File exists");
        Assert.Equal("add route 172.17.52.0/24 dev tun0: File exists", exception.Message);
        Assert.Equal((errno, alreadyExists, notFound), (exception.Errno, exception.AlreadyExists, exception.NotFound));
    }
}
