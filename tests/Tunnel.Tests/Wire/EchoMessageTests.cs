using Tunnel.Wire;

namespace Tunnel.Tests.Wire;

public sealed class EchoMessageTests
{
    // As docs/wire.md has them.
    private const string Question = "01020000" + "0123456789abcdef" + "00000000075bcd15";
    private const string Answer = "010305dc" + "0123456789abcdef" + "00000000075bcd15";

    [Fact]
    public void Writes_what_the_document_says()
    {
        Assert.Equal(Question, Written(new EchoMessage(IsReply: false, 0, 0x0123_4567_89ab_cdef, 123_456_789), EchoMessage.Length), ignoreCase: true);
        Assert.Equal(Answer, Written(new EchoMessage(IsReply: true, 1500, 0x0123_4567_89ab_cdef, 123_456_789), EchoMessage.Length), ignoreCase: true);
    }

    [Fact]
    public void Padding_is_zeros_whatever_was_there()
    {
        string written = Written(new EchoMessage(IsReply: false, 0, 1, 2), 30);
        Assert.Equal(new string('0', 20), written[40..]);
    }

    [Theory]
    [InlineData("010201ff", 255, false)]
    [InlineData("01020307", 7, true)]
    [InlineData("0102fd07", 7, false)] // bits of no meaning yet
    [InlineData("01020607", null, false)] // without bit 0 nothing is said
    public void A_question_says_what_its_sender_hears(string head, int? seconds, bool wrongKey)
    {
        Assert.True(EchoMessage.TryParse(Convert.FromHexString(head + Question[8..]), out EchoMessage message));
        Assert.Equal(seconds is int heard ? new Hearing((byte)heard, wrongKey) : null, message.Hearing);
        if (head[4..6] is "01" or "03")
        {
            Assert.Equal(head + Question[8..], Written(message, EchoMessage.Length), ignoreCase: true);
        }
    }

    [Theory]
    [InlineData(Question, false, 0)]
    [InlineData(Answer, true, 1500)]
    public void Reads_both_with_and_without_padding(string hex, bool isReply, int length)
    {
        foreach (byte[] bytes in new[] { Convert.FromHexString(hex), [.. Convert.FromHexString(hex), 1, 2, 3] })
        {
            Assert.True(EchoMessage.TryParse(bytes, out EchoMessage message));
            Assert.Equal(new EchoMessage(isReply, (ushort)length, 0x0123_4567_89ab_cdef, 123_456_789), message);
        }
    }

    [Theory]
    [InlineData("")]
    [InlineData("01")]
    [InlineData("010200000123456789abcdef00000000075bcd")] // one byte short
    [InlineData("02020000" + "0123456789abcdef" + "00000000075bcd15")] // another version
    [InlineData("01010000" + "0123456789abcdef" + "00000000075bcd15")] // abilities
    [InlineData("01040000" + "0123456789abcdef" + "00000000075bcd15")] // no type yet
    public void Refuses_what_is_none(string hex) => Assert.False(EchoMessage.TryParse(Convert.FromHexString(hex), out _));

    private static string Written(EchoMessage message, int length)
    {
        byte[] bytes = new byte[length];
        Array.Fill(bytes, (byte)0xa5);
        message.Write(bytes);
        return Convert.ToHexString(bytes);
    }
}
